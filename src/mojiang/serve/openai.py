"""OpenAI's protocol over the engine: models, chat completions, completions with fill in the middle.

    >>> app = create_app({"tiny": served_model}, ServeSettings())          # doctest: +SKIP

What of the protocol is supported, ignored or refused is decided in `_schema`; nothing that would change an answer is
silently left out. Source: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from mojiang.core.errors import BadUsage
from mojiang.serve import _errors, _plan, _schema
from mojiang.serve._gate import Gate
from mojiang.serve._metrics import Metrics
from mojiang.serve._models import ServedModel
from mojiang.serve._reply import Json, Kind, Reply, usage
from mojiang.serve._stream import Answers, EventStream, unless_disconnected

_Body = TypeVar("_Body", _schema.ChatRequest, _schema.CompletionRequest)


@dataclass(frozen=True)
class ServeSettings:
    """Limits of one server. They are safe as they are; raise them knowingly."""

    api_key: str | None = None
    """Asked for on every path but the health probes; None asks for none."""
    max_body_bytes: int = 2 * 1024 * 1024
    """Larger requests are refused with 413."""
    max_choices: int = 16
    """Prompts × n of one request."""


class State:
    """What the endpoints of one application share."""

    def __init__(self, models: Mapping[str, ServedModel], settings: ServeSettings) -> None:
        self.models, self.settings = dict(models), settings
        self.metrics = Metrics(self.models.values())
        self.draining = False
        self._by_name = {model.ref: model for model in self.models.values()} | self.models

    def model(self, name: str) -> ServedModel:
        """The model called `name` or `name@version`."""
        if name in self._by_name:
            return self._by_name[name]
        shown = name[:200]
        message = f"The model '{shown}' is not served here; there is {', '.join(sorted(self.models))}."
        raise _errors.ApiError(404, message, code="model_not_found", param="model")

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.draining and all(model.engine.healthy for model in self.models.values())


def create_app(
    models: Mapping[str, ServedModel], settings: ServeSettings | None = None, middleware: Sequence[Middleware] = ()
) -> FastAPI:
    """The application that answers for `models` {name: model}.

    `middleware` runs after the key was checked and before the endpoints (guards, tracing). The engines start with the
    application; closing them is the caller's affair, see `server`.
    """
    if not models:
        raise BadUsage("there is no model to serve", hint="name at least one")
    state = State(models, settings or ServeSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for model in state.models.values():
            await asyncio.to_thread(model.engine.start)
        yield

    app = FastAPI(
        title="Mojiang",
        lifespan=lifespan,
        redirect_slashes=False,
        middleware=[Middleware(Gate, metrics=state.metrics, api_key=state.settings.api_key), *middleware],
    )
    app.state.serve = state
    _errors.install(app)
    app.include_router(_model_routes(state))
    app.include_router(_generation_routes(state))
    app.include_router(_operation_routes(state))
    return app


def _model_routes(state: State) -> APIRouter:
    routes = APIRouter()

    def described(model: ServedModel) -> Json:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "mojiang",
            "root": model.ref,
            "max_model_len": model.engine.context,
        }

    @routes.get("/v1/models")
    async def list_models() -> Json:
        return {"object": "list", "data": [described(model) for model in state.models.values()]}

    @routes.get("/v1/models/{name:path}")
    async def get_model(name: str) -> JSONResponse:
        model = state.model(name)
        return JSONResponse(described(model), headers=model.headers)

    return routes


def _generation_routes(state: State) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions", openapi_extra=_body_schema(_schema.ChatRequest))
    async def chat_completions(request: Request) -> Response:
        return await _answer(state, request, "chat", _schema.ChatRequest, _plan.plan_chat)

    @routes.post("/v1/completions", openapi_extra=_body_schema(_schema.CompletionRequest))
    async def completions(request: Request) -> Response:
        return await _answer(state, request, "completion", _schema.CompletionRequest, _plan.plan_completion)

    return routes


def _operation_routes(state: State) -> APIRouter:
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> JSONResponse:
        failures = {m.name: m.engine.failure for m in state.models.values() if m.engine.failure}
        return JSONResponse({"status": "failed" if failures else "ok", **failures}, 500 if failures else 200)

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        status = "ready" if state.ready else "draining" if state.draining else "not ready"
        return JSONResponse({"status": status}, 200 if state.ready else 503)

    @routes.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def _body_schema(shape: type[_schema.ChatRequest] | type[_schema.CompletionRequest]) -> Json:
    content = {"application/json": {"schema": shape.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def _answer(
    state: State,
    request: Request,
    kind: Kind,
    shape: type[_Body],
    make_plan: Callable[[_Body, ServedModel, int], _plan.Plan],
) -> Response:
    """From request to response, the same for both endpoints."""
    if state.draining:
        raise _errors.draining()
    body = _schema.parse(await _read(request, state.settings.max_body_bytes), shape)
    if body.stream_options is not None and not body.stream:
        raise _errors.ApiError(400, "stream_options needs stream: true.", code="invalid_value", param="stream_options")
    model = state.model(body.model)
    # In a thread: encoding a long text would hold up everybody's stream.
    plan = await asyncio.to_thread(make_plan, body, model, state.settings.max_choices)
    reply = Reply(kind, model, with_logprobs=plan.choices[0].logprobs is not None)
    answers = Answers(
        model.engine, plan.choices, bool(body.stream), functools.partial(state.metrics.observe, model.name)
    )
    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        # Entered here, so that a full queue is still an HTTP status.
        await answers.__aenter__()
        return EventStream(_events(answers, plan, reply, with_usage), model.headers)
    async with answers:
        generations = await unless_disconnected(request, answers.results())
    if generations is None:
        return Response(status_code=499)
    counts = usage(plan.prompt_tokens, sum(len(g.tokens) - g.num_repeated for g in generations))
    return JSONResponse(reply.whole(generations, plan.echo, counts), headers=model.headers)


async def _events(answers: Answers, plan: _plan.Plan, reply: Reply, with_usage: bool) -> AsyncGenerator[Json, None]:
    try:
        for index, before in enumerate(plan.echo):
            if reply.kind == "chat" or before:
                yield reply.chunk(index, before, (), None, first=True)
        num_tokens = 0
        async for index, delta in answers.deltas():
            num_tokens += delta.num_tokens
            yield reply.chunk(index, delta.text, delta.logprobs, delta.finish_reason)
        if with_usage:
            yield reply.usage_chunk(usage(plan.prompt_tokens, num_tokens))
    finally:
        await answers.__aexit__()


async def _read(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is longer than `limit`, whatever its Content-Length says."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise _errors.ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
    except ClientDisconnect:
        raise _errors.ApiError(499, "The client went away while it sent its request.", code="client_gone") from None
    return bytes(body)

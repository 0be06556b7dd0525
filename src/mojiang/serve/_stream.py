"""Between the engine's thread and the event loop: answers under way, and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mojiang.core.errors import Unavailable
from mojiang.generate.engine import Delta, Engine, Generation, GenerationRequest, Stream
from mojiang.serve._errors import ApiError, overloaded

T = TypeVar("T")


class Answers:
    """The choices of one request under way. Leaving the `async with` cancels what is unfinished.

    That is how a client that goes away stops its generation: whatever ends the handler leaves this block.
    """

    def __init__(
        self,
        engine: Engine,
        requests: tuple[GenerationRequest, ...],
        stream: bool,
        observe: Callable[[Generation], None],
    ) -> None:
        self._engine, self._requests, self._every, self._observe = engine, requests, stream, observe
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        self.streams: list[Stream] = []

    async def __aenter__(self) -> Answers:
        try:
            for index, request in enumerate(self._requests):
                self.streams.append(self._engine.submit(request, self._forward(index)))
        except Unavailable as error:
            self._cancel()
            if self._engine.healthy:
                raise overloaded(f"{error.message}; the queue holds {self._engine.max_queue}.") from None
            raise ApiError(503, f"{error.message}.", code="engine_unavailable") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cancel()

    def _cancel(self) -> None:
        for stream in self.streams:
            if not stream.done:
                stream.cancel()

    def _forward(self, index: int) -> Callable[[Delta], None]:
        def on_delta(delta: Delta) -> None:
            if delta.generation is not None:
                self._observe(delta.generation)
            # An answer that is not streamed wakes the event loop once, not once per token.
            if self._every or delta.finish_reason is not None:
                # The loop is closed when the server ended before the engine.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, delta))

        return on_delta

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(index of the choice, delta) as they come, until every choice has ended."""
        left = len(self.streams)
        while left:
            index, delta = await self._queue.get()
            if delta.finish_reason == "error":
                raise ApiError(500, "Generation failed.", code="engine_failed")
            if delta.finish_reason == "cancelled":
                raise ApiError(503, "The server is shutting down.", code="shutting_down")
            left -= delta.finish_reason is not None
            yield index, delta

    async def results(self) -> list[Generation]:
        """All choices, when they have ended."""
        generations = {index: delta.generation async for index, delta in self.deltas() if delta.generation}
        return [generations[index] for index in range(len(self.streams))]


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T | None:
    """Await `work`; None, with the work cancelled, if the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events from an async generator, which is closed as soon as the client goes away.

    Starlette's StreamingResponse notices a lost client only when it next sends, if at all; here the connection is
    watched, so that a generation still waiting in the queue is cancelled too.
    """

    def __init__(self, events: AsyncGenerator[Mapping[str, Any], None], headers: Mapping[str, str]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store", **headers})
        del self.headers["content-length"]
        self._events = events
        self.background: BackgroundTask | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events (ASGI)."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await unless_disconnected(Request(scope, receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async def line(data: str) -> None:
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

        try:
            async for event in self._events:
                await line(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
            await line("[DONE]")
        except ApiError as error:
            # The status is out already; OpenAI's clients raise when an event holds `error`.
            await line(json.dumps(error.body()))
        finally:
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

"""Requests in OpenAI's shape, and how strictly they are read.

A field of a request is one of four things:

- supported: it is in the model below;
- without effect on the answer (`user`, `metadata`, …): OpenAI defines it, we take it and do nothing;
- would change the answer, and we cannot do it (`tools`, `response_format`, …): 400, unless it has its neutral value;
- unknown: 400, naming it. A misspelt `temprature` never passes silently.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mojiang.serve._errors import ApiError

_NO_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "parallel_tool_calls",
    }
)
# Field → values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "best_of": (1,),
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Body):
    """Options of a streamed answer."""

    include_usage: bool = False
    """Send one more chunk at the end, with token counts."""
    include_obfuscation: bool = False
    """Taken for compatibility; padding against traffic analysis is not added."""


class TextPart(_Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None

    def plain(self) -> dict[str, str]:
        """As the chat template reads it. `developer` is OpenAI's newer word for `system`."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": role, "content": text}


_Tokens = list[Annotated[int, Field(ge=0)]]


class _Generate(_Body):
    model: str
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    """Not OpenAI's, but what most servers of open models understand; 0 keeps all."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 16 or any(not 0 < len(s) <= 1000 for s in stops):
            raise ValueError("at most 16 stop strings of 1 to 1000 characters")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(_Generate):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(_Generate):
    """Body of POST /v1/completions. With `suffix` the model fills in the middle."""

    prompt: str | list[str] | _Tokens | list[_Tokens]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


_Request = TypeVar("_Request", bound=_Generate)


def parse(raw: bytes, shape: type[_Request]) -> _Request:
    """Read a request body, or raise the `ApiError` that says what is wrong with which field."""
    try:
        # OpenAI's clients send standard JSON; NaN and Infinity are Python's own.
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    body = {field: value for field, value in body.items() if not _dropped(field, value, shape)}
    try:
        request = shape.model_validate(body)
        request.model_dump_json()  # lone surrogates are legal in JSON but in no text
        return request
    except ValidationError as error:
        raise _invalid(error) from None
    except ValueError:
        raise ApiError(400, "The body contains text that is not valid Unicode.", code="invalid_unicode") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _dropped(field: str, value: Any, shape: type[_Generate]) -> bool:
    """Whether a field may be left out; raises if it must not be."""
    if field in shape.model_fields:
        return False
    if field in _NO_EFFECT:
        return True
    if field in _NEUTRAL:
        if value is None or value in _NEUTRAL[field]:
            return True
        message = f"'{field}' is not supported by this server; leave it out."
        raise ApiError(400, message, code="unsupported_parameter", param=field)
    close = difflib.get_close_matches(field, [*shape.model_fields, *_NEUTRAL], n=1)
    meant = f" Did you mean '{close[0]}'?" if close else ""
    shown = field[:100].encode("utf-8", "replace").decode()
    raise ApiError(400, f"Unknown field '{shown}'.{meant}", code="unknown_parameter", param=shown)


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place: list[str] = []
    for part in first["loc"]:
        # Branches of a union ("list[str]", "TextPart") are pydantic's words, not the client's.
        if isinstance(part, int) or str(part).isidentifier() and str(part).islower() and part not in ("str", "int"):
            place.append(f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part))
    param = "".join(place) or None
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    message = str(first["msg"]).encode("utf-8", "replace").decode()
    return ApiError(400, f"Invalid value for '{param}': {message}.", code=code, param=param)

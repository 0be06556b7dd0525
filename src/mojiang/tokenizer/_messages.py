"""Messages as people write them, checked: roles, contents, and the calls of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mojiang.core.errors import BadInput
from mojiang.tokenizer._template import ChatTemplate, plain

ROLES: Final = ("system", "user", "assistant", "tool")
_SHAPE: Final = 'each message is {"role": "…", "content": "…"}'


def checked(messages: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Role and content of messages that have nothing else.

    Raises:
        BadInput: naming the message and what is wrong with it.
    """
    _some(messages)
    for number, message in enumerate(messages):
        role = _role(message, number)
        if message.get("tool_calls"):
            raise _unseen(number)
        if not isinstance(message.get("content"), str):
            raise _no_text(message, number)
        yield role, message["content"]


def plain_messages(messages: Sequence[Any], template: ChatTemplate) -> list[dict[str, Any]]:
    """Messages as a template reads them: plain values, no empty fields, arguments of calls as objects.

    Raises:
        BadInput: a message is malformed, or holds calls that the template would not show.
    """
    _some(messages)
    shown = []
    for number, message in enumerate(messages):
        role = _role(message, number)
        fields = {key: plain(value) for key, value in message.items() if value is not None}
        if fields.get("tool_calls"):
            if "tool_calls" not in template.reads:
                raise _unseen(number)
            fields["tool_calls"] = [_call(call, number) for call in fields["tool_calls"]]
        else:
            fields.pop("tool_calls", None)
        if "content" in fields or "tool_calls" not in fields:
            fields["content"] = _text(message, number)
        shown.append({**fields, "role": role, **_reasoning(fields)})
    return shown


def _some(messages: Sequence[Any]) -> None:
    if not messages:
        raise BadInput("the conversation has no messages", hint='give at least {"role": "user", "content": "…"}')


def _role(message: Any, number: int) -> str:
    if not isinstance(message, Mapping) or "role" not in message or not {"content", "tool_calls"} & set(message):
        raise BadInput(f"message {number} is {message!r}", hint=_SHAPE)
    role = message["role"]
    if role not in ROLES:
        raise BadInput(f"message {number} has the role {role!r}", hint="use one of " + ", ".join(ROLES))
    return str(role)


def _text(message: Mapping[str, Any], number: int) -> str:
    """The content; parts of text are put together, as servers do for templates that know no parts."""
    content = message["content"]
    if isinstance(content, (list, tuple)):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    if not isinstance(content, str):
        raise _no_text(message, number)
    return str(content)


def _no_text(message: Mapping[str, Any], number: int) -> BadInput:
    kind = type(message.get("content")).__name__
    return BadInput(f"the content of message {number} is {kind}", hint="it must be a string")


def _unseen(number: int) -> BadInput:
    return BadInput(
        f"message {number} calls a tool, and the chat template does not show calls",
        hint="use a model whose template knows tool_calls",
    )


def _call(call: Any, number: int) -> Any:
    """A call with its arguments as an object; OpenAI's interface sends them as a string of JSON."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        hint = 'a call is {"function": {"name": "…", "arguments": {…}}}'
        raise BadInput(f"message {number} has the tool call {call!r}", hint=hint)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise BadInput(
                f"the arguments of a tool call in message {number} are no JSON object: {function['arguments']!r}",
                hint='such as {"city": "Paris"}',
            )
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def _reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """The thoughts before an answer under the names that templates know (as in `transformers`)."""
    names = ("reasoning_content", "thinking", "reasoning")
    thought = next((message[name] for name in names if message.get(name) is not None), None)
    return {} if thought is None else {"thinking": message.get("thinking", thought), "reasoning_content": thought}

"""The forms of examples: which columns each has, how a record of any origin becomes one, when two are the same.

A form is a row of `FORMS`. Its `build` takes a record through `Fields` (ours → theirs by name) and returns the form's
columns, or raises `Unusable` with a reason, which drops that record and no other.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from mojiang.data._documents import SCHEMA

Row = dict[str, Any]


class Unusable(Exception):
    """This record cannot be an example: why in a word, and what was there."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


_EXTRAS: Final = ("name", "tool_calls", "tool_call_id")  # of a message; tool_calls is a JSON string
_MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
_MESSAGE_WITH_TOOLS: Final = pa.struct([*_MESSAGE, *((name, pa.string()) for name in _EXTRAS)])
_ANSWER: Final = pa.struct([("text", pa.string()), ("start", pa.int64())])
MESSAGES: Final = pa.list_(_MESSAGE)
META: Final = (
    pa.field("id", pa.string(), nullable=False),  # depends on source, file and record, not on what it says
    pa.field("path", pa.string(), nullable=False),  # file#record, relative to the source
    pa.field("origin", pa.string(), nullable=False),  # name of the source
    pa.field("licence", pa.string(), nullable=False),
    pa.field("language", pa.string(), nullable=False),  # "und" where there is no text
    pa.field("bytes", pa.int64(), nullable=False),  # UTF-8 of its text; of the file for an image
)


class Fields:
    """A record read by our names: `columns` first, then our own name, then what others call it."""

    def __init__(
        self, record: Mapping[str, Any], columns: Mapping[str, str], aliases: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.record, self.columns, self.aliases = record, columns, aliases

    def get(self, name: str) -> Any:
        """The value, or None. A mapped name may lead into nested records: `translation.en`."""
        if name in self.columns and not self.columns[name].lstrip("-").isdigit():  # positions are for who reads columns
            value: Any = self.record.get(self.columns[name])
            if value is None:
                value = self.record
                for step in self.columns[name].split("."):
                    value = value.get(step) if isinstance(value, Mapping) else None
            return value
        for known in (name, *self.aliases.get(name, ())):
            if (value := self.record.get(known)) is not None:
                return value
        lowered = {str(key).lower(): value for key, value in self.record.items()}
        return next((v for known in (name, *self.aliases.get(name, ())) if (v := lowered.get(known)) is not None), None)

    def need(self, name: str) -> Any:
        """The value; `Unusable` when there is none."""
        value = self.get(name)
        if value is None:
            raise Unusable(f"missing-{name}", f"has {', '.join(sorted(map(str, self.record))[:12])}")
        return value

    def text(self, name: str) -> str:
        """The value as text that is not blank."""
        value = self.need(name)
        if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = _number(value)
        if not isinstance(value, str):
            raise Unusable(f"{name}-is-no-text", type(value).__name__)
        if not value.strip():
            raise Unusable(f"empty-{name}")
        return _whole(value)


@dataclass(frozen=True)
class Form:
    """Columns, how to build a row, and what of it decides sameness, splits and counts."""

    columns: tuple[pa.Field, ...]
    build: Callable[[Fields], Row]
    text: Callable[[Row], str]  # everything a reader sees: language, size, sameness
    group: Callable[[Row], str] | None = None  # what must not be in two splits; None: all of it
    label: Callable[[Row], str] | None = None  # two rows of the same text must agree on it
    labels: Callable[[Row], Iterable[str]] | None = None  # what is counted in the report
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_splits: bool = True

    @property
    def known(self) -> frozenset[str]:
        """Every column name that means something to this form."""
        names = {column.name for column in self.columns} | set(self.aliases)
        return frozenset(names.union(*self.aliases.values())) if self.aliases else frozenset(names)


def schema_of(form: str, tools: bool = False) -> pa.Schema:
    """The Arrow schema of a form's shards; with `tools`, messages have room for tool calls and names."""
    if form == "documents":
        return SCHEMA
    fields = []
    for column in FORMS[form].columns:
        fields.append(column.with_type(pa.list_(_MESSAGE_WITH_TOOLS)) if tools and column.type == MESSAGES else column)
    return pa.schema([*META, *fields])


def has_tools(row: Row) -> bool:
    """Whether a message of the row has more than a role and a content."""
    lists = (row.get("messages"), row.get("prompt"))
    return any(message.get(name) for messages in lists for message in messages or () for name in _EXTRAS)


def plain(row: Row) -> Row:
    """A stored row as templates want it: no empty extras in its messages, tool calls as lists."""
    for name in ("messages", "prompt"):
        if isinstance(row.get(name), list):
            row[name] = [_plain_message(message) for message in row[name]]
    return row


def _plain_message(message: Row) -> Row:
    kept = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in kept:
        kept["tool_calls"] = json.loads(kept["tool_calls"])
    return kept


def visible(text: str) -> str:
    """What two texts must share to count as the same: NFKC, no case, one space where there is any.

    >>> visible("Ｈello \\n World") == visible("hello world")
    True
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def keys_of(form: Form, row: Row, together: str = "") -> tuple[bytes, bytes, bytes]:
    """128 bits of what the row is, 64 of what keeps it in one split with others (or `together`), 64 of its label."""
    whole = row["image"] if "image" in row else visible(form.text(row)).encode()
    group = together.encode() or (visible(form.group(row)).encode() if form.group else whole)
    label = form.label(row).encode() if form.label else b""
    return _hash(whole)[:16], _hash(group)[:8], _hash(label)[:8]


def size_of(form: Form, row: Row) -> int:
    """UTF-8 bytes of what a reader sees of it."""
    return len(row["image"]) if "image" in row else len(form.text(row).encode())


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _whole(text: str) -> str:
    # JSON may escape half a surrogate pair, which no UTF-8 file can hold.
    return text.encode("utf-8", "replace").decode() if re.search("[\ud800-\udfff]", text) else text


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


# -- labelled, images ---------------------------------------------------------------------------------------------


def _label(fields: Fields) -> str:
    value = fields.need("label")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        raise Unusable("several-labels", json.dumps(value, ensure_ascii=False, default=str)[:100])
    return fields.text("label").strip()


def _labelled(fields: Fields) -> Row:
    second = fields.get("text_b")
    return {
        "text": fields.text("text"), "text_b": None if second is None else fields.text("text_b"),
        "label": _label(fields),
    }  # fmt: skip


def _image(fields: Fields) -> Row:
    value = fields.need("image")
    value = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(value, bytes):
        value = png_of(value)
    if not value.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        raise Unusable("not-png-or-jpeg", repr(value[:8]))
    return {"image": value, "label": _label(fields)}


def png_of(pixels: Any) -> bytes:
    """PNG bytes of an array (H, W) or (H, W, 3) of 0…255."""
    import numpy as np
    from PIL import Image

    try:
        array = np.asarray(pixels)
        if array.dtype == object or array.ndim not in (2, 3) or array.size == 0:
            raise ValueError(f"shape {array.shape}")
        image = Image.fromarray(array.astype(np.uint8))
    except (TypeError, ValueError) as error:
        raise Unusable("not-an-image", str(error)) from None
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def pixels_of(data: bytes) -> Any:
    """The uint8 array (H, W, C) of a PNG or JPEG: C is 1 for grey and 3 for colour."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        grey = image.mode in ("1", "L", "LA", "I", "I;16", "F")
        return np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB")))


# -- tagged, spans, pairs, documents ------------------------------------------------------------------------------


def _tagged(fields: Fields) -> Row:
    found = {}
    for name in ("tokens", "tags"):
        value = fields.need(name)
        value = value.split() if isinstance(value, str) else [str(item) for item in value]
        if not all(item.strip() for item in value):
            raise Unusable(f"empty-{name}", f"{sum(not item.strip() for item in value)} of {len(value)}")
        found[name] = [_whole(item) for item in value]
    if not found["tokens"]:
        raise Unusable("empty-tokens")
    if len(found["tokens"]) != len(found["tags"]):
        raise Unusable("unequal-lengths", f"{len(found['tokens'])} tokens, {len(found['tags'])} tags")
    return found


def _spans(fields: Fields) -> Row:
    question, context = fields.text("question"), fields.text("context")
    answers: list[Row] = []
    for text, start in _answers(fields.get("answers")):
        if start is None or context[start : start + len(text)] != text:
            start = context.find(text)
        if start < 0 or not text:
            raise Unusable("answer-not-in-context", text)
        if (answer := {"text": text, "start": start}) not in answers:
            answers.append(answer)
    return {"question": question, "context": context, "answers": answers}


def _answers(value: Any) -> Iterator[tuple[str, int | None]]:
    """(text, start) of SQuAD's list, of its columns {"text": […], "answer_start": […]}, or of a bare text."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        texts, starts = value.get("text") or [], value.get("answer_start", value.get("start"))
        value = [{"text": t, "start": s} for t, s in zip(texts, starts or [None] * len(texts), strict=False)]
    for item in value or []:
        if isinstance(item, str):
            yield item, None
        elif isinstance(item, Mapping) and isinstance(item.get("text"), str):
            yield item["text"], item.get("start", item.get("answer_start"))
        else:
            raise Unusable("answers-not-understood", json.dumps(item, ensure_ascii=False, default=str)[:100])


def _pair(fields: Fields) -> Row:
    return {"source": fields.text("source"), "target": fields.text("target")}


def _document(fields: Fields) -> Row:
    return {"format": str(fields.get("format") or "txt"), "text": fields.text("text")}


# -- conversations, preferences, prompts --------------------------------------------------------------------------

_ROLES: Final = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
}


def messages_of(value: Any) -> list[Row]:
    """Messages of OpenAI or ShareGPT records, of texts that take turns, or of one prompt.

    >>> messages_of([{"from": "human", "value": "Hi"}])[0]["role"], [m["role"] for m in messages_of(["Hi", "Hello"])]
    ('user', ['user', 'assistant'])
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise Unusable("messages-not-understood", type(value).__name__)
    return [_message(item, number) for number, item in enumerate(value)]


def _message(item: Any, number: int) -> Row:
    if isinstance(item, str):
        item = {"role": ("user", "assistant")[number % 2], "content": item}
    if not isinstance(item, Mapping):
        raise Unusable("messages-not-understood", f"message {number} is {type(item).__name__}")
    said = str(item.get("role", item.get("from", ""))).lower()
    if said not in _ROLES:
        raise Unusable("unknown-role", repr(said))
    content, calls = item.get("content", item.get("value")), item.get("tool_calls") or None
    if said == "function_call":
        content, calls = "", [{"type": "function", "function": _parsed(content)}]
    if isinstance(calls, str):
        calls = _parsed(calls)
    return {
        "role": _ROLES[said], "content": _content(content), "name": item.get("name"),
        "tool_calls": None if calls is None else json.dumps(calls, ensure_ascii=False),
        "tool_call_id": item.get("tool_call_id"),
    }  # fmt: skip


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise Unusable("broken-tool-call", str(error)) from None


def _content(value: Any) -> str:
    if isinstance(value, list):  # OpenAI's parts
        if any(not isinstance(part, Mapping) or part.get("type", "text") != "text" for part in value):
            raise Unusable("not-text", "a message has parts that are no text")
        value = "\n".join(str(part.get("text", "")) for part in value)
    if value is not None and not isinstance(value, str):
        raise Unusable("not-text", f"a message's content is {type(value).__name__}")
    return _whole(value or "")


def _conversation(fields: Fields) -> Row:
    turns = fields.get("messages")
    messages = messages_of(turns) if turns is not None else _exchange(fields)
    system = fields.get("system")
    if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
        messages.insert(0, messages_of([{"role": "system", "content": system}])[0])
    if not any(m["role"] == "assistant" and (m["content"].strip() or m["tool_calls"]) for m in messages):
        raise Unusable("no-answer", f"{len(messages)} messages, none of them an assistant's")
    if not any(m["role"] != "assistant" and m["content"].strip() for m in messages):
        raise Unusable("no-question", f"{len(messages)} messages, all of them an assistant's")
    tools = fields.get("tools")
    tools = json.dumps(tools, ensure_ascii=False) if tools and not isinstance(tools, str) else tools or None
    return {"messages": messages, "tools": tools, "kind": str(fields.get("kind") or "conversation")}


def _exchange(fields: Fields) -> list[Row]:
    """The messages of alpaca's instruction, input and output, or of a prompt and its completion."""
    prompt = fields.get("instruction")
    if prompt is None:
        fields.need("messages")
    messages = [m for pair in fields.get("history") or () for m in messages_of(list(pair))]
    more = fields.get("input")
    if isinstance(prompt, str) and isinstance(more, str) and more.strip():
        prompt = f"{prompt}\n\n{more}"
    messages += messages_of(prompt)
    return messages + _as_answer(fields.need("output"))


def _as_answer(value: Any) -> list[Row]:
    return messages_of([{"role": "assistant", "content": value}] if isinstance(value, str) else value)


def _prompt(value: Any) -> list[Row]:
    messages = messages_of(value)
    if not messages or not messages[-1]["content"].strip() or messages[-1]["role"] == "assistant":
        raise Unusable("no-question", "the prompt does not end with something to answer")
    return messages


def _preference(fields: Fields) -> Row:
    row: Row = {"chosen": None, "rejected": None, "completion": None, "desirable": None}
    if fields.get("chosen") is None and fields.get("completion") is not None:
        prompt = _prompt(fields.need("prompt"))
        completion = _final(fields.need("completion"), prompt)
        return {**row, "prompt": prompt, "completion": completion, "desirable": _truth(fields.need("desirable"))}
    chosen, rejected, prompt = fields.need("chosen"), fields.need("rejected"), fields.get("prompt")
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        prompt = chosen[:-1]  # TRL's implicit prompt: what comes before the answers
    asked = _prompt(fields.need("prompt") if prompt is None else prompt)
    row |= {"prompt": asked, "chosen": _final(chosen, asked), "rejected": _final(rejected, asked)}
    if visible(row["chosen"]) == visible(row["rejected"]):
        raise Unusable("chosen-equals-rejected", row["chosen"][:100])
    return row


def _final(value: Any, prompt: list[Row]) -> str:
    """The one answer that follows the prompt."""
    messages = _as_answer(value)
    messages = messages[len(prompt) :] if messages[: len(prompt)] == prompt else messages
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise Unusable("several-turns", f"{len(messages)} messages after the prompt; one answer is needed")
    if not messages[0]["content"].strip():
        raise Unusable("empty-answer")
    return str(messages[0]["content"])


def _truth(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "1", "1.0", "yes", "desirable"):
        return True
    if word in ("false", "0", "0.0", "no", "undesirable", "-1"):
        return False
    raise Unusable("label-not-yes-or-no", word[:40])


def _task(fields: Fields) -> Row:
    return {"prompt": _prompt(fields.need("prompt")), "answer": fields.text("answer")}


def _said(messages: list[Row]) -> str:
    return "\n".join(f"{m['content']}{m.get('tool_calls') or ''}" for m in messages)


def _first_question(row: Row) -> str:
    return next((m["content"] for m in row["messages"] if m["role"] == "user"), _said(row["messages"]))


def _desired(row: Row) -> Iterator[str]:
    yield "paired" if row["chosen"] is not None else f"desirable: {row['desirable']}".lower()


def _texts(*names: str) -> Callable[[Row], str]:
    return lambda row: "\n".join(row[name] for name in names if row[name] is not None)


def _strings(*names: str) -> tuple[pa.Field, ...]:
    return tuple(pa.field(name, pa.string(), nullable=False) for name in names)


_LABEL: Final = ("category", "class", "target", "sentiment", "stars", "rating", "topic", "section")

FORMS: Final[dict[str, Form]] = {
    "labelled": Form(
        (*_strings("text"), pa.field("text_b", pa.string()), *_strings("label")),
        _labelled, _texts("text", "text_b"), label=lambda row: str(row["label"]), labels=lambda row: [row["label"]],
        aliases={
            "text": ("sentence", "content", "review", "document", "body", "text_a", "sentence1", "premise"),
            "text_b": ("sentence2", "hypothesis"), "label": _LABEL,
        },
    ),
    "tagged": Form(
        (pa.field("tokens", pa.list_(pa.string()), nullable=False),
         pa.field("tags", pa.list_(pa.string()), nullable=False)),
        _tagged, lambda row: " ".join(row["tokens"]), label=lambda row: "\0".join(row["tags"]),
        labels=lambda row: row["tags"], aliases={"tokens": ("words",), "tags": ("ner_tags", "pos_tags", "labels")},
    ),
    "spans": Form(
        (*_strings("question", "context"), pa.field("answers", pa.list_(_ANSWER), nullable=False)),
        _spans, _texts("question", "context"), group=_texts("context"),
        label=lambda row: "\0".join(sorted(answer["text"] for answer in row["answers"])),
        labels=lambda row: ["answered" if row["answers"] else "no answer"], aliases={"answers": ("answer",)},
    ),
    "pairs": Form(
        _strings("source", "target"), _pair, _texts("source", "target"), group=_texts("source"),
        aliases={
            "source": ("src", "input", "document", "article", "anchor", "query"),
            "target": ("tgt", "output", "summary", "positive"),
        },
    ),
    "conversations": Form(
        (pa.field("messages", MESSAGES, nullable=False), pa.field("tools", pa.string()), *_strings("kind")),
        _conversation, lambda row: _said(row["messages"]), group=_first_question, labels=lambda row: [row["kind"]],
        aliases={
            "messages": ("conversations", "conversation", "dialog", "dialogue"), "tools": ("functions",),
            "instruction": ("prompt", "question", "query"), "output": ("completion", "response", "answer"),
            "input": (), "history": (), "system": (),
        },
    ),
    "preferences": Form(
        (pa.field("prompt", MESSAGES, nullable=False), pa.field("chosen", pa.string()),
         pa.field("rejected", pa.string()), pa.field("completion", pa.string()), pa.field("desirable", pa.bool_())),
        _preference, lambda row: "\n".join((_said(row["prompt"]), _texts("chosen", "rejected", "completion")(row))),
        group=lambda row: _said(row["prompt"]), label=lambda row: str(row["desirable"]), labels=_desired,
        aliases={"prompt": ("question", "instruction"), "completion": ("response",), "desirable": ("label",)},
    ),
    "prompts": Form(
        (pa.field("prompt", MESSAGES, nullable=False), *_strings("answer")),
        _task, lambda row: _said(row["prompt"]), label=lambda row: str(row["answer"]),
        aliases={
            "prompt": ("question", "problem", "instruction"), "answer": ("solution", "target", "ground_truth", "output")
        },
    ),
    "images": Form(
        (pa.field("image", pa.binary(), nullable=False), *_strings("label")),
        _image, lambda row: "", label=lambda row: str(row["label"]), labels=lambda row: [row["label"]],
        aliases={"image": ("img",), "label": ("class", "category")},
    ),
    "documents": Form(
        (*_strings("format"), pa.field("text", pa.large_string(), nullable=False)),
        _document, _texts("text"), has_splits=False,
    ),
}  # fmt: skip

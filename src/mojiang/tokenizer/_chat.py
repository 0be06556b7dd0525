"""Conversations in any model's template as token ids, and which of them the model is trained to write.

A template writes one text, in which the special tokens it puts there and the words of a message look the same. So that
nobody can end a turn by writing its token, every control token found in a message is cut by a *seam* before the
template runs: two private characters after its first letter. The text that comes out then holds a control token only
where the template wrote it; it is encoded with the seam as a token of its own, which is dropped again. Conversations
without such words are rendered untouched, and their ids are those of `transformers`.

    control tokens   special tokens, and in what users and tools say also the others that the template writes itself
                     (`<tool_response>`); the model may write these, so an assistant's message keeps them
    joined tokens    "<|im_" at the end of a message and what the template writes behind it: where a message begins or
                     ends like a part of a control token, a second rendering with seams around it tells whether any
                     token is only there because of the two together
    normalisation    a tokenizer whose normaliser or model makes a special token of other characters: what the ids of
                     special tokens stand on must be spelled like them, or the conversation is refused

What a template assembles from parts of a message is beyond this; roles, of which some do, are checked against a list.

Trained is what the model has to write when it answers: everything from where a prompt for this answer would end, to
the special token that ends the turn. Both are found by rendering the beginnings of the conversation, or given by the
template's own `{% generation %}` blocks, less what is not the model's in them. A token that would cross the border
between prompt and answer is cut there, as it is when the model is used.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as HuggingFaceTokenizer

from mojiang.core.errors import BadInput
from mojiang.tokenizer._template import FIXED_DATE, ChatTemplate, Spans

SEAM: Final = "\U000f0000\U000f0001"

Offsets = list[tuple[int, int]]
Message = dict[str, Any]
Labelled = tuple[list[int], list[bool]]
"""Ids, and for each whether it is trained on."""


class Seams:
    """Cuts whatever is spelled like one of some tokens."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # The seam is one of them: a text that holds it must keep it.
        self._tokens = sorted({*tokens, SEAM}, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, self._tokens)))
        self._starts = re.compile(f"(?=({self._any.pattern}))", re.DOTALL)
        self._heads = tuple({token[:end] for token in self._tokens for end in range(1, len(token))})
        self._tails = tuple({token[start:] for token in self._tokens for start in range(1, len(token))})

    def cut(self, text: str) -> str:
        """The text with a seam after the first letter of every such spelling, overlapping ones too."""
        if not self._any.search(text):
            return text
        places = [found.start() + 1 for found in self._starts.finditer(text)]
        short = [token for token in self._tokens if len(token) == 1 and token in text]
        if short:
            raise BadInput(
                f"a message holds {short[0]!r}, which is a special token of one letter",
                hint="it cannot be told from text; take it out of the message, or out of the special tokens",
            )
        pieces = [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]
        return SEAM.join(pieces)

    def found(self, text: str) -> list[str]:
        """The tokens a text holds, in order; seams are none."""
        return [token for token in self._any.findall(text) if token != SEAM]

    def could_join(self, text: str) -> bool:
        """Whether the text begins like the end of a token, or ends like the beginning of one."""
        bare = text.strip()
        return bare.startswith(self._tails) or bare.endswith(self._heads)


class SeamedTokenizer:
    """A copy of a tokenizer that knows special tokens where it sees them, and seams."""

    def __init__(self, tokenizer: HuggingFaceTokenizer, exempt: frozenset[int]) -> None:
        self._copy = HuggingFaceTokenizer.from_str(tokenizer.to_str())
        self._copy.encode_special_tokens = False
        self._copy.no_truncation()
        self._copy.no_padding()
        self._copy.post_processor = processors.ByteLevel(trim_offsets=False)  # adds nothing, leaves offsets whole
        added = self._copy.get_added_tokens_decoder().items()
        self._special = {id: token.content for id, token in added if token.special and id not in exempt}
        self._copy.add_tokens([AddedToken(SEAM, normalized=False, special=False)])
        self._seam = self._copy.token_to_id(SEAM)

    def encode(self, text: str) -> tuple[list[int], Offsets]:
        """Ids of a text that has special tokens and seams, and where in it each stands.

        Raises:
            BadInput: a special token stands where the text does not spell it.
        """
        encoding = self._copy.encode(text, add_special_tokens=False)
        pairs = [pair for pair in zip(encoding.ids, encoding.offsets, strict=True) if pair[0] != self._seam]
        for id, (start, stop) in pairs:
            if id in self._special and text[start:stop].strip() != self._special[id].strip():
                raise BadInput(
                    f"the tokenizer makes its special token {self._special[id]!r} of the text {text[start:stop]!r}",
                    hint="take it out of the text: it cannot be written as text with this tokenizer",
                )
        return [id for id, _ in pairs], [offsets for _, offsets in pairs]


@dataclass(frozen=True)
class _Prepared:
    """Messages and tools as the template sees them, with its other variables."""

    messages: list[Message]
    variables: Mapping[str, Any]
    now: datetime.datetime | None


class Chat:
    """A template with the tokenizer it is for."""

    def __init__(self, template: ChatTemplate, tokenizer: HuggingFaceTokenizer, seamed: SeamedTokenizer) -> None:
        self.template, self._seamed = template, seamed
        added = tokenizer.get_added_tokens_decoder().values()
        special = [token.content for token in added if token.special]
        written = [token.content for token in added if token.content in template.literals]
        self._words = Seams(special)
        self._all = Seams([*special, *(text for text in written if not text.isspace())])
        any_special = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)"
        self._special, self._last = re.compile(any_special), re.compile(rf"({any_special})\s*\Z")

    def ids(
        self, messages: Sequence[Message], tools: list[Any] | None, open_answer: bool, variables: Mapping[str, Any]
    ) -> list[int]:
        """Ids of a conversation, ending with the opening of an answer if `open_answer`."""
        prepared = self._prepare(messages, tools, variables, open_answer, None)
        text = self._text(prepared, len(messages), open_answer)
        _check_shown(prepared.messages, text)
        return self._seamed.encode(text)[0]

    def sequences(
        self, messages: Sequence[Message], tools: list[Any] | None, variables: Mapping[str, Any], last_only: bool
    ) -> list[Labelled]:
        """Ids of a conversation, and which of them the model is trained to write: of all answers, or of the last only.

        Some templates write an answer otherwise when the conversation goes on: they take its thoughts out. What the
        model has to write can then not be learned from the whole, and each answer becomes a sequence of its own that
        ends with it.
        """
        prepared = self._prepare(messages, tools, variables, False, FIXED_DATE)
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        text, marked = self._rendered(prepared, len(messages), False)
        _check_shown(prepared.messages, text)
        if self.template.marks_answers:
            spans = [self._trimmed(prepared, text, span, answers) for span in marked]
            return [self._labelled(text, spans[-1:] if last_only else spans)]
        wanted = answers[-1:] if last_only else answers
        found = [self._answer(prepared, text, number) for number in wanted]
        if None not in found:
            return [self._labelled(text, [span for span in found if span is not None])]
        return [self._alone(prepared, number) for number in wanted]

    def _alone(self, prepared: _Prepared, number: int) -> Labelled:
        """The conversation up to an answer, with this answer trained."""
        text = self._text(prepared, number + 1, False)
        span = self._answer(prepared, text, number)
        assert span is not None, "a conversation that ends with its answer is the one the answer was found in"
        return self._labelled(text, [span])

    def _labelled(self, text: str, spans: Spans) -> Labelled:
        ids, offsets = self._seamed.encode(text)
        crossed = [start for start, _ in spans if any(begin < start < end for begin, end in offsets)]
        if crossed:
            text, spans = _cut_at(text, spans, crossed)
            ids, offsets = self._seamed.encode(text)
        return ids, _inside(offsets, spans)

    def _prepare(
        self,
        messages: Sequence[Message],
        tools: list[Any] | None,
        variables: Mapping[str, Any],
        open_answer: bool,
        now: datetime.datetime | None,
    ) -> _Prepared:
        shown = {"tools": _mapped(tools, self._words.cut), "documents": None, **_mapped(dict(variables), self._all.cut)}
        cut = [self._cut(message) for message in messages]
        prepared = _Prepared(cut, shown, now)
        if not any(self._all.could_join(text) for message in messages for text in _said(message)):
            return prepared
        apart = _Prepared([_surrounded(message) for message in cut], shown, now)
        texts = [self._text(each, len(cut), open_answer) for each in (prepared, apart)]
        return prepared if self._all.found(texts[0]) == self._all.found(texts[1]) else apart

    def _cut(self, message: Message) -> Message:
        seams = self._all if message["role"] in ("user", "tool") else self._words
        return {key: value if key == "role" else _mapped(value, seams.cut) for key, value in message.items()}

    def _rendered(self, prepared: _Prepared, count: int, open_answer: bool) -> tuple[str, Spans]:
        messages = prepared.messages[:count]
        if self._wants_parts:
            messages = [_in_parts(message) for message in messages]
        return self.template.render(messages, prepared.now, add_generation_prompt=open_answer, **prepared.variables)

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether the template shows a message only if its content is a list of parts, as of models that see."""
        probe = {"role": "user", "content": "probe"}
        for in_parts in (False, True):
            try:
                text, _ = self.template.render([_in_parts(probe) if in_parts else probe], add_generation_prompt=False)
            except BadInput:
                continue
            if "probe" in text:
                return in_parts
        return False  # neither is shown alone; the conversation itself will tell

    def _text(self, prepared: _Prepared, count: int, open_answer: bool) -> str:
        return self._rendered(prepared, count, open_answer)[0]

    def _answer(self, prepared: _Prepared, text: str, number: int) -> tuple[int, int] | None:
        """Where in the text answer `number` stands, its stop token included; None if it is written otherwise there."""
        prompt = self._text(prepared, number, True)
        own = self._text(prepared, number + 1, False)
        if not own.startswith(prompt):
            raise BadInput(
                f"the chat template opens an answer with {prompt[-20:]!r}, but writes message {number} without it",
                hint="give the answer its reasoning_content, set the template's variables (such as enable_thinking), "
                "or mark answers in the template by {% generation %} blocks",
            )
        stop = self._stop(prepared, own, len(prompt), number)
        return (len(prompt), stop) if text.startswith(own[:stop]) else None

    def _stop(self, prepared: _Prepared, own: str, start: int, number: int) -> int:
        """Where a turn ends: behind its special token, found in `own`, the conversation up to it.

        Some templates end the whole conversation with a token that is not there when it goes on: so the turn's is
        looked for in what this rendering shares with the one that goes on to another answer.
        """
        try:
            onward = self._text(prepared, number + 1, True)
        except BadInput:
            onward = own  # many templates refuse two answers in a row
        shared = len(os.path.commonprefix([own, onward]))
        for token in self._special.finditer(own, start):
            if token.start() < shared < token.end():
                shared = token.start()  # two tokens that begin alike
        for end in (shared, len(own)):
            found = self._last.search(own[:end], start)
            if found:
                return found.end(1)
        raise BadInput(
            f"the chat template ends an answer with {own[start:][-20:]!r}, and no special token is in it: the model "
            "would never learn to stop",
            hint="use a template that ends each answer with the tokenizer's stop token, as a special token",
        )

    def _trimmed(self, prepared: _Prepared, text: str, span: tuple[int, int], answers: list[int]) -> tuple[int, int]:
        """A generation block without the header that a prompt ends with, and what follows its stop token."""
        start, stop = span
        for number in answers:
            try:
                prompt = self._text(prepared, number, True)
            except BadInput:
                continue  # only some templates take a conversation that begins with an answer
            shared = len(os.path.commonprefix([prompt, text]))
            if shared < len(prompt):  # the prompt opens thoughts that are not here; the header ends with a token
                ends = [token.end() for token in self._special.finditer(text, start, max(start, shared))]
                shared = max(ends, default=0)
            if start < shared <= stop:
                start = shared
        last = self._last.search(text[:stop], start)
        return start, last.end(1) if last else stop


def _mapped(value: Any, change: Any) -> Any:
    """A plain value with every string changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value


_WORD: Final = re.compile("[A-Za-z0-9]+")  # what no template escapes
SAID: Final = ("content", "reasoning_content", "thinking", "reasoning")


def _said(message: Message) -> list[str]:
    return [message[key] for key in SAID if isinstance(message.get(key), str)]


def _check_shown(messages: list[Message], text: str) -> None:
    """Refuse a template that leaves out what somebody says: the last word of each content must be in the text."""
    for number, message in enumerate(messages):
        words = _WORD.findall((message.get("content") or "").split("</think>")[-1])  # thoughts may well be left out
        if words and words[-1] not in text:
            raise BadInput(
                f"the chat template does not show message {number}, which is the {message['role']}'s",
                hint="leave messages of this role out, or use a model whose template knows them",
            )


def _in_parts(message: Message) -> Message:
    if not isinstance(message.get("content"), str):
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _surrounded(message: Message) -> Message:
    said = {key: f"{SEAM}{message[key]}{SEAM}" for key in SAID if isinstance(message.get(key), str)}
    return {**message, **said}


def _cut_at(text: str, spans: Spans, places: list[int]) -> tuple[str, Spans]:
    """The text with seams in some places, and the spans moved accordingly."""
    for place in sorted(places, reverse=True):
        text = text[:place] + SEAM + text[place:]
        spans = [tuple(at + len(SEAM) * (at >= place) for at in span) for span in spans]  # type: ignore[misc]
    return text, spans


def _inside(offsets: Offsets, spans: Spans) -> list[bool]:
    """For each token whether it begins inside a span; spans are in order and apart."""
    inside, at = [], 0
    for start, _ in offsets:
        while at < len(spans) and start >= spans[at][1]:
            at += 1
        inside.append(at < len(spans) and start >= spans[at][0])
    return inside

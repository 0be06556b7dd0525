"""Label audit: look at what would be trained on before a step is paid for, and refuse when it is wrong.

The labels are not asked how they were made. What an answer looks like in tokens is learned from a few short
conversations in the model's template: the tokens that open an answer, and the special token that ends one. Then every
sequence is read with that alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import Shards

_QUESTIONS: Final = ("How many apples?", "Name one colour.")
_ANSWERS: Final = ("Seven of them", "It could be green")
_THOUGHT: Final = "<think>\nLet me see\n</think>\n\n"
_MARK: Final = re.compile(r"<\|[^<>|\s]+\|>")


class ChatTokens(Protocol):
    """What the audit needs from a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that the model's files say end an answer."""
        ...

    def token(self, id: int) -> str:
        """The spelling of a token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int], skip_special: bool = ...) -> str:
        """Text of ids."""
        ...

    def render_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = ...) -> list[int]:
        """Token ids of a conversation."""
        ...


@dataclass(frozen=True)
class Turns:
    """What an answer looks like in tokens."""

    header: tuple[int, ...]
    """Opens an answer; stands nowhere else."""
    opening: tuple[int, ...]
    """What a prompt ends with behind the header: the rest of the role line, sometimes the beginning of thoughts."""
    stops: frozenset[int]
    """Special tokens that end one."""
    rewrites: bool
    """Whether earlier answers are written otherwise than the last one, so that only the last can be trained on."""


@dataclass(frozen=True)
class Audit:
    """What the audit saw."""

    conversations: int
    tokens: int
    trained: int
    stops: int
    """Stop tokens of assistant turns that are trained on."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens that are all trained on, or all not, as text; special tokens are shown."""

    text: str
    trained: bool


def check_vocabulary(tokenizer: Any, model_config: Any) -> None:
    """Refuse a tokenizer that has more ids than the model has embeddings.

    Raises:
        BadInput: naming both sizes.
    """
    tokenizer.check_fits(model_config.vocab_size)


def learn_turns(tokenizer: ChatTokens) -> Turns:
    """What an answer looks like in this tokenizer's chat template.

    Raises:
        BadInput: answers cannot be told from questions, or no special token ends them.
    """

    def chat(*answers: str) -> list[dict[str, str]]:
        pairs = zip(_QUESTIONS, answers, strict=False)
        return [m for q, a in pairs for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]

    asked = [[*chat(), {"role": "user", "content": question}] for question in _QUESTIONS]
    prompt = _shared_end(*(tokenizer.render_chat(messages, add_generation_prompt=True) for messages in asked))
    wholes = [tokenizer.render_chat(chat(*_ANSWERS))]
    with contextlib.suppress(BadInput):  # some templates know no system messages
        wholes.append(tokenizer.render_chat([{"role": "system", "content": "Be kind"}, *chat(*_ANSWERS)]))
    start, stop = _header(prompt, wholes, tokenizer.special_ids)
    header = tuple(prompt[start:stop])
    final = [tokenizer.render_chat(chat(answer)) for answer in _ANSWERS]
    inner = [tokenizer.render_chat([*chat(answer), asked[1][0]]) for answer in _ANSWERS]
    ending, between = (_first_special(_shared_end(*pair), tokenizer.special_ids) for pair in (final, inner))
    # Between two turns the first special token may be the next one's header; some models do stop at that.
    stops = {*ending, *(between if ending else tokenizer.stop_ids.intersection(between))}
    if not stops:
        raise _never_stops(tokenizer, final[0], header)
    turns = Turns(header, tuple(prompt[stop:]), frozenset(stops) | tokenizer.stop_ids & tokenizer.special_ids, False)
    rewrites = (_rewrites(tokenizer, turns, chat(thought + _ANSWERS[0], _ANSWERS[1])) for thought in ("", _THOUGHT))
    return replace(turns, rewrites=any(rewrites))


def audit_conversations(shards: Shards, tokenizer: ChatTokens) -> Audit:
    """Check the labels of every conversation, independently of how they were made.

    Every answer must be trained on up to and including the token that ends it; no token of another role, no header
    and no padding may be. Where the template rewrites earlier answers, a sequence may train only its last.

    Raises:
        BadInput: naming the conversation, the token position and what is wrong. Nothing is trained then.
    """
    if len(shards) == 0:
        raise BadInput("there are no conversations to train on", hint="look at the report of their dataset")
    turns = learn_turns(tokenizer)
    tokens_seen = trained_seen = stops = 0
    for number in range(len(shards)):
        tokens, trained = shards.sequence(number)
        answers = list(_answers(tokens, turns, number, tokenizer))
        if not answers:
            raise BadInput(f"conversation {number} has no assistant turn", hint="each needs at least one answer")
        if turns.rewrites and not trained[: answers[-1].start].any():
            answers = answers[-1:]
        _check(tokens, trained, answers, number, turns, tokenizer)
        tokens_seen += len(tokens)
        trained_seen += int(trained.sum())
        stops += int((np.isin(tokens, list(turns.stops)) & trained).sum())
    return Audit(len(shards), tokens_seen, trained_seen, stops)


def label_segments(tokens: NDArray[Any], trained: NDArray[np.bool_], tokenizer: ChatTokens) -> list[Segment]:
    """A sequence as text, in runs that are trained on and runs that are not: what to look at before training."""
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(tokens)]
    runs = [(start, stop) for start, stop in zip(edges, edges[1:], strict=False) if start < stop]
    return [
        Segment(tokenizer.decode(tokens[start:stop].tolist(), skip_special=False), bool(trained[start]))
        for start, stop in runs
    ]


def split_marks(tokenizer: Any) -> list[str]:
    """Marks such as `<|user|>` that the chat template writes and the vocabulary cuts into several tokens.

    Some models mean it so; more often the template belongs to another tokenizer.
    """
    marks = dict.fromkeys(_MARK.findall(tokenizer.chat_template or ""))
    return [mark for mark in marks if not _is_one_token(tokenizer, mark)]


def _is_one_token(tokenizer: ChatTokens, mark: str) -> bool:
    return any(tokenizer.token(id) == mark for id in tokenizer.special_ids)


def _header(prompt: list[int], wholes: list[list[int]], special: frozenset[int]) -> tuple[int, int]:
    """Where in the end of a prompt the part is that opens answers and nothing else.

    It begins with a special token if it can, the last one possible, since no content holds one. Each of `wholes` has
    two answers.
    """
    starts = [at for at in range(len(prompt) - 1, -1, -1) if prompt[at] in special]
    ends = [(start, stop) for start in starts for stop in range(start + 1, len(prompt) + 1)]
    for start, stop in [*ends, (0, len(prompt))]:
        if start < stop and all(len(_places(whole, tuple(prompt[start:stop]))) == 2 for whole in wholes):
            return start, stop
    raise BadInput(
        "the chat template opens answers and questions alike: what to train on cannot be checked",
        hint="use a template whose assistant turns begin with something of their own",
    )


def _places(tokens: list[int], wanted: tuple[int, ...]) -> list[int]:
    size = len(wanted)
    return [at for at in range(len(tokens) - size + 1) if tuple(tokens[at : at + size]) == wanted]


def _shared_end(a: list[int], b: list[int]) -> list[int]:
    size = 0
    while size < min(len(a), len(b)) and a[-1 - size] == b[-1 - size]:
        size += 1
    return a[len(a) - size :]


def _first_special(tokens: list[int], special: frozenset[int]) -> list[int]:
    return [id for id in tokens if id in special][:1]


def _rewrites(tokenizer: ChatTokens, turns: Turns, messages: list[dict[str, str]]) -> bool:
    """Whether the template writes the first of two answers otherwise than if it were the last."""
    alone, whole = tokenizer.render_chat(messages[:2]), tokenizer.render_chat(messages)
    answers = list(_answers(np.array(alone), turns, 0, tokenizer))
    return not answers or whole[: answers[0].stop + 1] != alone[: answers[0].stop + 1]


def _never_stops(tokenizer: ChatTokens, tokens: list[int], header: tuple[int, ...]) -> BadInput:
    ending = tokenizer.decode(tokens[-12:], skip_special=False)
    stops = [tokenizer.token(id) for id in sorted(tokenizer.stop_ids & tokenizer.special_ids)]
    split = [mark for mark in _MARK.findall(ending) if not _is_one_token(tokenizer, mark)]
    why = f" ({split[-1]!r} is {len(tokenizer.encode(split[-1]))} tokens of text in this vocabulary)" if split else ""
    return BadInput(
        f"the chat template never ends an answer with a stop token: answers end with {ending!r}{why}",
        hint=f"let the template write {stops[0] if stops else 'a special token'!r} after each answer",
    )


@dataclass(frozen=True)
class _Answer:
    """The tokens [start, stop] of an answer; those before `first` may be trained on or not."""

    start: int
    first: int
    stop: int


def _answers(tokens: NDArray[Any], turns: Turns, number: int, tokenizer: ChatTokens) -> Iterator[_Answer]:
    """Every answer, from behind what a prompt for it ends with, to its stop token."""
    header, opening = np.array(turns.header), turns.opening
    is_stop = np.isin(tokens, list(turns.stops))
    ends = np.flatnonzero(is_stop)
    done = 0
    for at in np.flatnonzero(tokens[: len(tokens) - len(header) + 1] == header[0]):
        start = int(at) + len(header)
        if at < done or start == len(tokens) or not np.array_equal(tokens[at:start], header):
            continue
        same = 0
        while same < len(opening) and start + same < len(tokens) and tokens[start + same] == opening[same]:
            same += 1
        # A prompt that opens thoughts where the answer has none: what the two share may count for either.
        begin, first = (start + same, start + same) if same == len(opening) else (start, start + same)
        after = ends[ends >= first]
        if not len(after):
            names = " or ".join(repr(tokenizer.token(id)) for id in sorted(turns.stops))
            raise BadInput(
                f"label audit: the answer at token {begin} of conversation {number} is never ended by {names}",
                hint="let the chat template write the stop token after each answer",
            )
        stop = int(after[0])
        while stop + 1 < len(tokens) and is_stop[stop + 1]:
            stop += 1  # a token that ends what is said, and one that ends the turn
        done = stop + 1
        yield _Answer(begin, first, stop)


def _check(
    tokens: NDArray[Any],
    trained: NDArray[np.bool_],
    answers: list[_Answer],
    number: int,
    turns: Turns,
    tokenizer: ChatTokens,
) -> None:
    expected = np.zeros(len(tokens), bool)
    free = np.zeros(len(tokens), bool)
    done = -1
    for answer in answers:
        expected[answer.start : answer.stop + 1] = True
        free[answer.start : answer.first] = True
        opened = answer.start - len(turns.header)
        if done == opened:  # some models open a second part of an answer themselves, with the header again
            free[opened : answer.start] = True
        done = answer.stop + 1
    wrong = np.flatnonzero((expected != trained) & ~free)
    if not len(wrong):
        return
    at = int(wrong[0])
    what = "is not trained on but belongs to an answer" if expected[at] else "is trained on but is no answer"
    id = int(tokens[at])
    name = f" (the stop token {tokenizer.token(id)!r})" if id in turns.stops else ""
    raise BadInput(
        f"label audit: token {at} of conversation {number}{name} {what}",
        hint="the chat template and the labels disagree: mark whole answers in its {% generation %} blocks, or leave "
        "these out",
    )

"""Label audit: look at what would be trained on before a step is paid for, and refuse when it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import Shards


class ChatTokens(Protocol):
    """What the audit needs from a tokenizer."""

    def token_id(self, token: str) -> int:
        """Id of a special token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class Audit:
    """What the audit saw."""

    conversations: int
    tokens: int
    trained: int
    stops: int
    """Stop tokens of assistant turns that are trained on."""


def audit_conversations(shards: Shards, tokenizer: ChatTokens) -> Audit:
    """Check the labels of every conversation, independently of how they were made.

    Turns are found again from the tokens: every assistant turn must be trained on up to and including its
    `<|im_end|>`; no token of another role, no header and no padding may be.

    Raises:
        BadInput: naming the conversation, the token position and what is wrong. Nothing is trained then.
    """
    start, end = tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>")
    header = tokenizer.encode("assistant\n")
    if len(shards) == 0:
        raise BadInput("there are no conversations to train on", hint="look at the report of their dataset")
    tokens_seen = trained_seen = stops = 0
    for number in range(len(shards)):
        tokens, trained = shards.sequence(number)
        expected = _assistant_tokens(tokens.tolist(), start, end, header)
        if not expected.any():
            raise BadInput(f"conversation {number} has no assistant turn", hint="each needs at least one answer")
        wrong = np.flatnonzero(expected != trained)
        if len(wrong):
            at = int(wrong[0])
            what = "is not trained on but belongs to an answer" if expected[at] else "is trained on but is no answer"
            what = f"(the stop token) {what}" if tokens[at] == end else what
            raise BadInput(
                f"label audit: token {at} of conversation {number} {what}",
                hint="the chat template and the labels disagree; train the tokenizer again with this version",
            )
        tokens_seen += len(tokens)
        trained_seen += int(trained.sum())
        stops += int(((tokens == end) & trained).sum())
    return Audit(len(shards), tokens_seen, trained_seen, stops)


def _assistant_tokens(tokens: list[int], start: int, end: int, header: list[int]) -> np.ndarray:
    """Which tokens an assistant turn's header is followed by, up to and including the turn's end."""
    expected = np.zeros(len(tokens), bool)
    inside = False
    at = 0
    while at < len(tokens):
        if tokens[at] == start:
            inside = tokens[at + 1 : at + 1 + len(header)] == header
            at += 1 + len(header) if inside else 1
            continue
        expected[at] = inside
        inside = inside and tokens[at] != end
        at += 1
    return expected

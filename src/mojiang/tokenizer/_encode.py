"""Documents and conversations as token sequences, ready for packing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mojiang.tokenizer._pack import Sequence

BATCH_CHARACTERS = 2**19
"""Text tokenised at a time: enough for all of the tokenizer's threads, little enough to bound memory."""


class Encoder(Protocol):
    """What this module needs from `mojiang.tokenizer.load.Tokenizer`."""

    @property
    def eos_id(self) -> int:
        """Id of the token that begins and ends a document."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, on the tokenizer's own threads."""
        ...

    def encode_arrays(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        """The same as arrays."""
        ...

    def token_id(self, token: str) -> int:
        """Id of a special token."""
        ...

    @property
    def start_ids(self) -> list[int]:
        """Ids that a document begins with."""
        ...

    def chat_sequences(self, messages: Any, tools: Any = ...) -> list[tuple[list[int], list[bool]]]:
        """Ids of a conversation and which of them the model is trained to write."""
        ...


def draw(seed: int, *key: object) -> float:
    """A number in [0, 1) that depends on (seed, key) only: no generator, so nothing to save and any order gives it.

    >>> draw(0, "a") == draw(0, "a") != draw(1, "a")
    True
    """
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def infill_windows(text: str, size: int) -> Iterator[str]:
    """`text` cut at line ends into windows of about `size` characters, so that each fits into the model's context."""
    start = 0
    while start < len(text):
        stop = min(len(text), start + size)
        if stop < len(text):
            line_end = text.rfind("\n", start + size // 2, stop)
            stop = line_end + 1 if line_end >= 0 else stop
        yield text[start:stop]
        start = stop


def split_for_infill(text: str, seed: int, key: str) -> tuple[str, str, str]:
    """Prefix, middle and suffix at two characters drawn uniformly from (seed, key).

    Source: Bavarian et al. 2022, character-level, so that a hole may begin inside a token.
    """
    cuts = sorted(int(draw(seed, key, end) * (len(text) + 1)) for end in ("first", "second"))
    return text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]


def document_sequences(
    documents: Iterable[tuple[str, str, bool]],
    tokenizer: Encoder,
    *,
    seed: int = 0,
    fim_rate: float = 0.0,
    fim_characters: int = 2048,
) -> Iterator[Sequence]:
    """Sequences for (id, text, is it code) documents: `<|endoftext|> text <|endoftext|>`.

    The leading token is what a document is predicted from, a model's own if it has one (`<s>`, `<|begin_of_text|>`);
    the trailing one teaches the model to end. A share
    `fim_rate` of the code documents is rearranged window by window to prefix, suffix, middle, and counts no bytes: its
    likelihood is not that of the text.
    """  # fmt: skip
    eos = tokenizer.eos_id
    first, last = (np.array(ids, np.uint32) for ids in (tokenizer.start_ids or [eos], [eos]))
    for batch in by_characters(documents):
        plain = [(text, key) for key, text, code in batch if not (code and draw(seed, key, "fim") < fim_rate)]
        holes = [
            split_for_infill(window, seed, f"{key}#{number}")
            for key, text, code in batch
            if code and draw(seed, key, "fim") < fim_rate
            for number, window in enumerate(infill_windows(text, fim_characters))
        ]
        for (text, _), ids in zip(plain, tokenizer.encode_arrays([text for text, _ in plain]), strict=True):
            yield Sequence(np.concatenate([first, ids, last]), len(text.encode()))
        if not holes:
            continue
        marks = [tokenizer.token_id(f"<|fim_{part}|>") for part in ("prefix", "middle", "suffix")]
        encoded = iter(tokenizer.encode_batch([part for hole in holes for part in hole]))
        for prefix, middle, suffix in zip(encoded, encoded, encoded, strict=True):
            yield Sequence(np.array([marks[0], *prefix, marks[2], *suffix, marks[1], *middle, eos]), 0)


Messages = list[dict[str, Any]]


def conversation_sequences(
    conversations: Iterable[Messages | Mapping[str, Any]], tokenizer: Encoder
) -> Iterator[Sequence]:
    """Sequences for conversations; trained on are the assistant's turns with the token that ends them.

    A conversation is a list of messages, or a row with the fields `messages` and `tools` (a list of schemas, or its
    JSON). Templates that rewrite earlier answers give one sequence per answer.
    """
    for conversation in conversations:
        row = conversation if isinstance(conversation, Mapping) else {"messages": conversation}
        tools = row.get("tools") or None
        if isinstance(tools, str):
            tools = json.loads(tools)
        for ids, trained in tokenizer.chat_sequences(row["messages"], tools):
            yield Sequence(np.array(ids), 0, np.array(trained, bool))


def by_characters(documents: Iterable[tuple[str, str, bool]]) -> Iterator[list[tuple[str, str, bool]]]:
    """The same documents in batches of about `BATCH_CHARACTERS`."""
    batch: list[tuple[str, str, bool]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_texts(batches: Iterable[Any]) -> Iterator[tuple[str, str, bool]]:
    """(id, text, is it code) of document record batches with the columns id, text and format."""
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in ("id", "text", "format"))
        for key, text, form in zip(*columns, strict=True):
            yield key, text, form == "code"

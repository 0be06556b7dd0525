"""Texts as batches in which something is hidden, for the objectives of `_pretraining`.

A batch is made of row numbers, the step and the seed alone: texts are hidden anew each time they are seen, and alike
after a restart, on whatever rank.

Tensor names: B rows · T positions
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mojiang.core.errors import BadInput
from mojiang.tokenizer._encode import by_characters
from mojiang.tokenizer._pack import IGNORE, PackedRows, Rows, Sequence, Shards
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Drawn, Examples
from mojiang.train._families import end_id
from mojiang.train._noise import (
    Key,
    Vocabulary,
    corrupt_spans,
    denoise,
    mask_tokens,
    num_noise,
    row_lengths,
    sentence_pairs,
)

Ints = NDArray[np.int64]
Documents = Iterable[tuple[str, str, bool]]
"""(id, text, is it code)"""
RATES = {
    "masked": 0.15, "masked_nsp": 0.15, "masked_sop": 0.15, "replaced_token": 0.15, "span_corruption": 0.15,
    "denoising": 0.3,
}  # fmt: skip
"""Share of the tokens that an objective hides, as in its paper."""


def framed_pieces(documents: Documents, tokenizer: Tokenizer, context: int) -> Iterator[Sequence]:
    """Documents cut into pieces which, with the tokenizer's frame (`[CLS] … [SEP]`), have at most `context` tokens.

    Each has one token more, which nothing reads: `PackedRows` keeps the last one for a target.
    """
    room = context - tokenizer.frame_size(False)
    for batch in by_characters(documents):
        texts = [text for _, text, _ in batch]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            size = len(text.encode())
            for first, stop in _cuts(len(ids), room):
                framed, _ = tokenizer.frame(ids[first:stop])
                yield Sequence(np.array([*framed, framed[-1]]), size * stop // len(ids) - size * first // len(ids))


def whole_documents(documents: Documents, tokenizer: Tokenizer) -> Iterator[Sequence]:
    """Documents as they are, to be cut by `Pieces`."""
    for batch in by_characters(documents):
        texts = [text for _, text, _ in batch]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            yield Sequence(np.array(ids), len(text.encode()))


def _cuts(num_tokens: int, most: int) -> list[tuple[int, int]]:
    """A text as the fewest pieces of at most so many tokens, of even length."""
    count = -(-num_tokens // most)
    borders = [num_tokens * number // count for number in range(count + 1)] if count else [0]
    return list(zip(borders[:-1], borders[1:], strict=True))


class Pieces:
    """Documents of token shards in pieces of at most `size` tokens; with `chosen`, only those of these numbers."""

    def __init__(self, shards: Shards, size: int, chosen: Ints | None = None) -> None:
        self.shards, self.size = shards, size
        numbers = np.arange(len(shards)) if chosen is None else np.sort(chosen)
        cuts = [
            (number, first, stop) for number in numbers.tolist() for first, stop in _cuts(shards.lengths[number], size)
        ]
        self._pieces = np.array([cut for cut in cuts if cut[2] - cut[1] > 1], np.int64).reshape(-1, 3)
        self.num_targets = int((self._pieces[:, 2] - self._pieces[:, 1]).sum())
        """Tokens of all pieces."""

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def row_tokens(self) -> int:
        """Tokens of a piece, on average."""
        return max(1, self.num_targets // max(1, len(self)))

    @property
    def token_use(self) -> float:
        """How much of the longest piece there may be one fills on average."""
        return self.row_tokens / self.size

    def tokens(self, number: int) -> Ints:
        """The tokens of a piece."""
        document, first, stop = self._pieces[number].tolist()
        return self.shards.stretch(document, first, stop)[0].astype(np.int64)

    def elsewhere(self, number: int, draw: float) -> int:
        """A piece of another document, for a number drawn from [0, 1).

        Raises:
            BadInput: there is no other document.
        """
        documents = self._pieces[:, 0]
        first, stop = (int(np.searchsorted(documents, documents[number], side)) for side in ("left", "right"))
        others = len(self) - (stop - first)
        if others == 0:
            raise BadInput(
                "a split has one document only, and no other to take a wrong second text from",
                hint="add documents, or take objective=masked_sop",
            )
        at = int(draw * others)
        return at if at < first else at + stop - first


Layout = PackedRows | Pieces
Batch = Rows | Examples


@dataclass(frozen=True)
class Sampled(Rows):
    """Packed rows with a number from [0, 1) for each position, with which a sample for it is drawn."""

    draws_BT: NDArray[np.float64]

    def take(self, rows: Ints | list[int] | range) -> Sampled:
        """The rows of these numbers."""
        taken = super().take(rows)
        return Sampled(**vars(taken), draws_BT=self.draws_BT[np.asarray(rows, np.int64)])


@dataclass(frozen=True)
class Noise:
    """How an objective corrupts texts: a batch from a layout, row numbers, a step and a seed."""

    objective: str
    tokenizer: Tokenizer
    context: int
    rate: float
    whole_words: bool = False

    def check(self) -> None:
        """Refuse a tokenizer that lacks what the objective writes.

        Raises:
            BadInput: saying what it lacks and where it is to be had.
        """
        if self.objective == "span_corruption":
            self._check_sentinels()
        elif self.tokenizer.special_id("mask") is None:
            raise BadInput(
                f"objective {self.objective} hides tokens behind a mask token, and this tokenizer has none",
                hint="train one with tokenizer.wordpiece (encoders) or tokenizer.unigram (BART)",
            )
        if self.objective in ("masked_nsp", "masked_sop") and not (
            self.tokenizer.frame_start(True) and self.tokenizer.frame_size(True) > 2
        ):
            raise BadInput(
                f"objective {self.objective} needs a tokenizer that frames two texts as [CLS] a [SEP] b [SEP]",
                hint="train one with tokenizer.wordpiece, or take objective=masked",
            )

    def _check_sentinels(self) -> None:
        there, needed = len(self.vocabulary.sentinels), num_noise(self.piece_size, self.rate)[1]
        if there < needed:
            raise BadInput(
                f"objective span_corruption hides {needed} spans of a text of {self.piece_size} tokens, and the "
                f"tokenizer has {there} sentinels (<extra_id_0>, …)",
                hint="train one with tokenizer.unigram" if not there else "lower context, or give it more sentinels",
            )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Which tokens may be touched, and which are written."""
        sentinels: list[int] = []
        with contextlib.suppress(BadInput):
            while True:
                sentinels.append(self.tokenizer.token_id(f"<extra_id_{len(sentinels)}>"))
        special = set(self.tokenizer.special_ids)
        if self.objective == "span_corruption":
            # A word that is unknown would divide a span, and then lengths and sentinels would not be what was reckoned.
            special -= {self.tokenizer.special_id("unk")}
        return Vocabulary(
            self.tokenizer.vocab_size, tuple(sorted(special)), self.tokenizer.special_id("mask"), tuple(sentinels)
        )

    @property
    def is_packed(self) -> bool:
        """Whether several texts share a row."""
        return self.objective in ("masked", "replaced_token")

    @cached_property
    def piece_size(self) -> int:
        """Most tokens of a text, without what the objective adds."""
        if self.objective == "span_corruption":
            return row_lengths(self.context, self.rate)[0]
        pair = self.objective in ("masked_nsp", "masked_sop")
        return self.context - self.tokenizer.frame_size(pair) - (self.objective == "denoising")

    def sequences(self, documents: Documents) -> Iterator[Sequence]:
        """What the shards of these documents hold."""
        if self.is_packed:
            return framed_pieces(documents, self.tokenizer, self.context)
        return whole_documents(documents, self.tokenizer)

    def layout(self, shards: Shards, chosen: Ints | None = None) -> Layout:
        """The rows of the shards, or of some of their documents.

        Raises:
            BadInput: `masked_nsp` has one document only, and no other to take a wrong second text from.
        """
        if self.is_packed:
            return PackedRows(shards, self.context, chosen)
        pieces = Pieces(shards, self.piece_size, chosen)
        if self.objective == "masked_nsp" and len(pieces):
            pieces.elsewhere(0, 0.0)
        return pieces

    def batch(self, layout: Any, numbers: list[int], step: int, seed: int) -> Batch:
        """The batch of these rows. Masked targets stand in the place of next tokens."""
        if self.objective == "masked":
            return self._masked(layout, numbers, step, seed, (0.8, 0.1))
        if self.objective == "replaced_token":
            rows = self._masked(layout, numbers, step, seed, (0.85, 0.0))
            T = layout.row_tokens
            draws = [Key(seed, step, -1 - number).generator().random(T) for number in numbers]
            return Sampled(**vars(rows), draws_BT=np.stack(draws))
        visits = [(number, step * len(layout) + number) for number in numbers]
        if self.objective in ("masked_nsp", "masked_sop"):
            return _pair_examples([self._pair(layout, number, seed, visit) for number, visit in visits])
        garble = self._spans if self.objective == "span_corruption" else self._denoised
        made = [garble(layout.tokens(number), Key(seed, visit, 0)) for number, visit in visits]
        return _seq2seq_examples([inputs for inputs, _ in made], [targets for _, targets in made])

    def _masked(
        self, packed: PackedRows, numbers: list[int], step: int, seed: int, shares: tuple[float, float]
    ) -> Rows:
        rows = packed.rows(numbers)
        tokens_BT, targets_BT = rows.tokens_BT.copy(), np.full_like(rows.targets_BT, IGNORE)
        for row, (number, used) in enumerate(zip(numbers, num_used(rows).tolist(), strict=True)):
            text = rows.tokens_BT[row, :used]
            made = self._mask(text, Key(seed, step, number), shares)
            tokens_BT[row, :used], targets_BT[row, :used] = made
        return Rows(tokens_BT, targets_BT, rows.positions_BT, rows.spans_N3)

    def _mask(self, tokens_T: Ints, key: Key, shares: tuple[float, float] = (0.8, 0.1)) -> tuple[Ints, Ints]:
        starts_T = np.array(self.tokenizer.word_starts(tokens_T.tolist()), np.bool_) if self.whole_words else None
        return mask_tokens(tokens_T, self.vocabulary, key, rate=self.rate, word_starts_T=starts_T, shares=shares)

    def _pair(self, pieces: Pieces, number: int, seed: int, visit: int) -> tuple[Ints, Ints, Ints, int]:
        """Inputs, masked targets and segments of a piece cut in two, and whether its second half is out of place."""
        documents = [self._sentences(pieces.tokens(number))]
        following = self.objective == "masked_nsp"
        if following:
            other = pieces.elsewhere(number, Key(seed, visit, 1).generator().random())
            documents.append(self._sentences(pieces.tokens(other)))
        kind: Any = "next" if following else "order"
        first, second, label = sentence_pairs(documents, Key(seed, visit, 0), self.piece_size, objective=kind)[0]
        ids, segments = self.tokenizer.frame(first.tolist(), second.tolist())
        return *self._mask(np.array(ids), Key(seed, visit, 2)), np.array(segments), label

    def _spans(self, tokens_T: Ints, key: Key) -> tuple[Ints, Ints]:
        return corrupt_spans(tokens_T, self.vocabulary, key, rate=self.rate, end=end_id(self.tokenizer))

    def _denoised(self, tokens_T: Ints, key: Key) -> tuple[Ints, Ints]:
        framed = np.array(self.tokenizer.frame(tokens_T.tolist())[0])
        if self.vocabulary.is_ordinary[framed[-1]]:
            framed = np.append(framed, end_id(self.tokenizer))
        starts_T = self._sentence_starts(framed)
        return denoise(framed, self.vocabulary, key, sentence_starts_T=starts_T, rate=self.rate)

    def _sentences(self, tokens_T: Ints) -> list[list[int]]:
        """The tokens of each sentence."""
        return [part.tolist() for part in np.split(tokens_T, np.flatnonzero(self._sentence_starts(tokens_T))[1:])]

    def _sentence_starts(self, tokens_T: Ints) -> NDArray[np.bool_]:
        """Where sentences begin: behind a line end or 。！？, and behind . ! ? where white space follows."""
        ends_T, breaks_T, spaced_T = (table[tokens_T] for table in self._endings)
        starts_T = np.ones(len(tokens_T), np.bool_)
        starts_T[1:] = ends_T[:-1] & ~ends_T[1:] & (breaks_T[:-1] | spaced_T[1:])
        return starts_T

    @cached_property
    def _endings(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """By id: whether it may end a sentence, whether it does so whatever follows, whether it follows white space."""
        pieces = self.tokenizer.token_bytes
        sure = tuple(mark.encode() for mark in "\n。！？…")
        breaks = [piece.rstrip(b" \t").endswith(sure) for piece in pieces]
        ends = [piece.rstrip().endswith((b".", b"!", b"?", *sure[1:])) for piece in pieces]
        # WordPiece forgets white space, so each of its words may follow some.
        forgets = self.tokenizer.kind == "wordpiece"
        spaced = [forgets or piece[:1].isspace() for piece in pieces]
        return np.array(ends) | np.array(breaks), np.array(breaks), np.array(spaced)


def num_used(rows: Rows) -> Ints:
    """Positions of each row that hold a token, (B,): texts stand one after the other from its beginning."""
    used_B: Ints = rows.spans_N3.reshape(len(rows), -1, 3)[:, :, 2].max(1)
    return used_B


def _pair_examples(made: list[tuple[Ints, Ints, Ints, int]]) -> Examples:
    tokens, targets, segments, labels = (list(column) for column in zip(*made, strict=True))
    columns = {"tokens": tokens, "targets": targets, "segments": segments, "label": np.array(labels, np.int64)}
    return Examples(columns, tokens="tokens")


def _seq2seq_examples(inputs: list[Ints], targets: list[Ints]) -> Examples:
    both = [range(len(source) + len(target)) for source, target in zip(inputs, targets, strict=True)]
    return Examples({"tokens": inputs, "targets": targets, "both": both}, tokens="both")


@dataclass(frozen=True)
class Fixed:
    """The batches of a validation split, corrupted alike each time they are gone through."""

    noise: Noise
    layout: Layout
    batch_rows: int

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.layout), self.batch_rows):
            numbers = list(range(first, min(first + self.batch_rows, len(self.layout))))
            # Packed batches keep their shape, for which the training was compiled: empty rows fill up the last.
            empty = [-1] * (self.batch_rows - len(numbers)) if self.noise.is_packed else []
            yield self.noise.batch(self.layout, numbers + empty, 0, 0)


def source(noise: Noise, layout: Layout, batch_rows: int, seed: int) -> Drawn:
    """The rows of a layout in a random order, hidden anew each time."""
    return Drawn(len(layout), batch_rows, seed, lambda numbers, step: noise.batch(layout, numbers, step, seed))

"""Skip-gram and CBOW with negative sampling, and fastText's subwords, as dense steps over batches of pairs.

The negatives of a batch are shared: `pool` words are drawn, and each counts `negatives / pool` for every pair, which
has the same expectation as drawing `negatives` for each. Scores of negatives are then one matrix product, and that is
what a processor does fastest (Ji et al. 2016).

Source: Mikolov et al. 2013; Bojanowski et al. 2017 (subwords); Ji et al. 2016, "Parallelizing Word2Vec in Shared and
Distributed Memory" (shared negatives).

CBOW's inputs are windows, which overlap: a batch reads each place once and sums over windows of these, and on the way
back sums for each place the slopes of the windows that it is in. The input table is then read and written once a place,
not once a pair, of which there are six times as many.

Tensor names carry their shape: P pairs · I pieces (words, places or bags of n-grams) · K rows of bags, or places of
windows · N negatives · V words · D size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, logsigmoid

from mojiang.text._corpus import BREAK, Corpus, Ids, pairs
from mojiang.text._sparse import murmur3

_POWER: Final = 0.75  # of the counts, for negatives
_DRAWN: Final = 8192  # negatives drawn at once


@dataclass(frozen=True)
class Bags:
    """What an input is made of: rows of the input table, by word, flat."""

    rows: Ids
    ends: npt.NDArray[np.int64]

    def of(self, words: Ids) -> tuple[Ids, Ids]:
        """The rows of these words' bags, and to which of the words each belongs."""
        starts = np.concatenate([[0], self.ends[:-1]])[words]
        sizes = self.ends[words] - starts
        owner = np.repeat(np.arange(len(words)), sizes)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.rows[np.repeat(starts, sizes) + within], owner.astype(np.int32)


def subwords(word: str, shortest: int, longest: int) -> list[str]:
    """The n-grams of <word>, without itself whole.

    >>> subwords("cat", 3, 4)
    ['<ca', 'cat', 'at>', '<cat', 'cat>']
    """
    marked = f"<{word}>"
    sizes = range(shortest, min(longest, len(marked) - 1) + 1)
    return [marked[at : at + size] for size in sizes for at in range(len(marked) - size + 1)]


def bags_of(words: Sequence[str], num_words: int, shortest: int, longest: int, buckets: int) -> Bags:
    """Each word's own row (if it has one) and those of its n-grams, which follow the words' in the table."""
    parts, ends, total = [], [], 0
    for number, word in enumerate(words):
        grams = murmur3(subwords(word, shortest, longest)).view(np.uint32) % np.uint32(buckets)
        own = [number] if number < num_words else []
        part = np.concatenate([np.array(own, np.int64), grams.astype(np.int64) + num_words])
        parts.append(part)
        total += len(part)
        ends.append(total)
    return Bags(np.concatenate(parts).astype(np.int32), np.array(ends, np.int64))


@dataclass
class Windows:
    """Which pieces each pair's window has, and in which windows each piece is: the same relation, from either side."""

    pieces_K: Tensor
    starts_P: Tensor
    pairs_K: Tensor
    starts_I: Tensor

    @classmethod
    def of(cls, piece_K: Ids, pair_K: Ids, starts_P: Ids, num_pieces: int) -> Windows:
        """From (piece, pair) in the order of the pairs, and where each pair's begin."""
        # numpy sorts numbers of 16 bits, and only those, digit by digit
        order = np.argsort(piece_K.astype(np.int16) if num_pieces < 2**15 else piece_K, kind="stable")
        count = np.bincount(piece_K, minlength=num_pieces)
        starts_I = (np.cumsum(count) - count).astype(np.int32)
        return cls(*map(torch.from_numpy, (piece_K, starts_P, pair_K[order], starts_I)))


@dataclass
class Batch:
    """Pieces as rows of the input table, and pairs of an input made of pieces and the word that it should predict."""

    rows_K: Tensor
    starts_I: Tensor | None
    """Where each piece's rows begin; None where each is one row."""
    input_P: Tensor | Windows | None
    """Which piece a pair has, or which window of them; None where each has its own piece."""
    share: Tensor | None
    """1 / the number of rows of each piece (I, 1), with windows of each pair (P, 1); None where it is 1."""
    target_P: Tensor


@dataclass
class Tables:
    """The two tables of vectors that are learned."""

    inputs_RD: Tensor
    outputs_VD: Tensor

    @classmethod
    def begin(cls, rows: int, words: int, size: int, generator: torch.Generator) -> Tables:
        """word2vec's start: small uniform inputs, outputs 0."""
        inputs_RD = (torch.rand(rows, size, generator=generator) - 0.5) / size
        return cls(inputs_RD, torch.zeros(words, size))

    def step(self, batch: Batch, negatives_N: Tensor, weight: float, rate: float, measure: bool = True) -> float | None:
        """One step of gradient ascent on the pairs' likelihood; with `measure`, their mean loss before it.

        Every row of a bag gets the whole slope of the bag's mean, as in word2vec and fastText, not its share.
        """
        outputs_VD, target_P = self.outputs_VD, batch.target_P
        hidden_PD = self._hidden(batch)
        targets_PD, negatives_ND = outputs_VD.index_select(0, target_P), outputs_VD.index_select(0, negatives_N)
        score_P = torch.linalg.vecdot(hidden_PD, targets_PD)
        scores_PN = hidden_PD @ negatives_ND.T
        scores_PN.masked_fill_(target_P[:, None] == negatives_N, -torch.inf)  # a target is no negative
        loss = None
        if measure:  # as many logarithms as there are scores: a fifth of the step's time
            total = float(logsigmoid(score_P).sum()) + weight * float(logsigmoid(-scores_PN).sum())
            loss = -total / len(target_P)
        slope_P1 = score_P.neg_().sigmoid_()[:, None]
        slopes_PN = scores_PN.sigmoid_().mul_(-weight)
        slope_PD = torch.addmm(slope_P1 * targets_PD, slopes_PN, negatives_ND)
        outputs_VD.index_add_(0, negatives_N, slopes_PN.T @ hidden_PD, alpha=rate)
        outputs_VD.index_add_(0, target_P, hidden_PD.mul_(slope_P1), alpha=rate)
        self._learn(batch, slope_PD, rate)
        return loss

    def _hidden(self, batch: Batch) -> Tensor:
        """The mean of each pair's rows."""
        if batch.starts_I is None:
            hidden = self.inputs_RD.index_select(0, batch.rows_K)
        else:
            hidden = _sums(self.inputs_RD, batch.rows_K, batch.starts_I)
        if isinstance(batch.input_P, Windows):
            hidden = _sums(hidden, batch.input_P.pieces_K, batch.input_P.starts_P)
        if batch.share is not None:
            hidden.mul_(batch.share)
        return hidden.index_select(0, batch.input_P) if isinstance(batch.input_P, Tensor) else hidden

    def _learn(self, batch: Batch, slope_PD: Tensor, rate: float) -> None:
        """Add each pair's slope to all of its rows."""
        slope_ID, starts_I = slope_PD, batch.starts_I
        if isinstance(batch.input_P, Windows):
            slope_ID = _sums(slope_PD, batch.input_P.pairs_K, batch.input_P.starts_I)
        elif batch.input_P is not None:
            pieces = len(batch.rows_K if starts_I is None else starts_I)
            slope_ID = slope_PD.new_zeros(pieces, slope_PD.shape[1]).index_add_(0, batch.input_P, slope_PD)
        if starts_I is not None:
            sizes_I = torch.diff(starts_I, append=starts_I.new_tensor([len(batch.rows_K)]))
            slope_ID = slope_ID.repeat_interleave(sizes_I, dim=0)
        self.inputs_RD.index_add_(0, batch.rows_K, slope_ID, alpha=rate)


def _sums(table_RD: Tensor, rows_K: Tensor, starts: Tensor) -> Tensor:
    """The sum of each group's rows; 0 for a group without any."""
    return embedding_bag(rows_K, table_RD, starts, mode="sum")


def kept_share(counts: npt.NDArray[np.int64], subsample: float) -> npt.NDArray[np.float64]:
    """How likely each word is to be kept when words above the share `subsample` are passed over at times (0: never)."""
    if not subsample:
        return np.ones(len(counts))
    ratio = subsample * counts.sum() / counts
    return np.asarray(np.minimum(1, np.sqrt(ratio) + ratio))


@dataclass(frozen=True)
class Sampling:
    """How pairs and negatives are drawn."""

    skip_gram: bool
    window: int
    subsample: float
    negatives: int
    pool: int
    batch: int
    seed: int
    bags: Bags | None = None

    def kept(self, ids: Ids, corpus: Corpus, random: np.random.Generator) -> Ids:
        """The ids without some of the frequent words, so that rare ones come closer."""
        chance = kept_share(corpus.counts, self.subsample)
        keep = random.random(len(ids)) < np.where(ids == BREAK, 1, chance[ids])
        return np.asarray(ids[keep])

    def negatives_of(self, corpus: Corpus, random: np.random.Generator) -> Iterator[Tensor]:
        """The negatives of one batch after another, by frequency to the power of 0.75; drawn for many at once."""
        power = corpus.counts**_POWER
        cumulative = np.cumsum(power / power.sum())
        lot = (max(1, _DRAWN // self.pool), self.pool)
        while True:
            drawn = np.searchsorted(cumulative, random.random(lot))
            yield from torch.from_numpy(np.minimum(drawn, len(corpus.words) - 1))

    def batches(self, ids: Ids, random: np.random.Generator) -> Iterator[Batch]:
        """The batches of a part of the corpus; each centre has its own window, drawn up to `window`."""
        centre, other, _ = pairs(ids, random.integers(1, self.window + 1, len(ids)), self.window)
        if not self.skip_gram:
            yield from self._cbow(ids, centre, other)
            return
        for at in range(0, len(centre), self.batch):
            yield self._skip_gram(ids[centre[at : at + self.batch]], ids[other[at : at + self.batch]])

    def _skip_gram(self, words_P: Ids, targets_P: Ids) -> Batch:
        target_P = torch.from_numpy(targets_P).long()
        if self.bags is None:
            return Batch(torch.from_numpy(words_P).long(), None, None, None, target_P)
        words_I, input_P = np.unique(words_P, return_inverse=True)
        rows_K, starts_I, sizes_I = self._bags(words_I)
        share_I1 = torch.from_numpy(1 / sizes_I[:, None].astype(np.float32))
        return Batch(rows_K, starts_I, torch.from_numpy(input_P), share_I1, target_P)

    def _cbow(self, ids: Ids, centre: Ids, other: Ids) -> Iterator[Batch]:
        """Batches of windows; their pieces are the places from the first window's begin to the last one's end."""
        if not len(centre):
            return
        changes = np.diff(centre, prepend=-1) != 0
        starts_P, pair_of = np.flatnonzero(changes), np.cumsum(changes) - 1
        firsts = np.maximum(centre[starts_P[:: self.batch]] - self.window, 0)
        # What all batches need is made for all of them at once: a call for each would take longer than its work.
        batch_of = pair_of // self.batch
        piece_K, pair_K = (other - firsts[batch_of]).astype(np.int32), (pair_of % self.batch).astype(np.int32)
        begins = starts_P[:: self.batch]
        local_P = (starts_P - np.repeat(begins, self.batch)[: len(starts_P)]).astype(np.int32)
        rows_I, target_P = torch.from_numpy(np.maximum(ids, 0)).long(), torch.from_numpy(ids[centre[starts_P]]).long()
        share_P1 = torch.from_numpy(1 / np.diff(starts_P, append=len(centre))[:, None].astype(np.float32))
        ends = [*begins[1:].tolist(), len(centre)]
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends, strict=True)):
            here = slice(number * self.batch, (number + 1) * self.batch)
            first, stop = int(firsts[number]), min(len(ids), int(centre[end - 1]) + self.window + 1)
            windows = Windows.of(piece_K[begin:end], pair_K[begin:end], local_P[here], stop - first)
            if self.bags is None:
                yield Batch(rows_I[first:stop], None, windows, share_P1[here], target_P[here])
                continue
            rows_K, starts_I, sizes_I = self._bags(ids[first:stop])
            share = 1 / np.add.reduceat(sizes_I[piece_K[begin:end]], local_P[here])[:, None].astype(np.float32)
            yield Batch(rows_K, starts_I, windows, torch.from_numpy(share), target_P[here])

    def _bags(self, words_I: Ids) -> tuple[Tensor, Tensor, npt.NDArray[np.int64]]:
        """The rows of these words (none of a `BREAK`), where each one's begin, and how many each has."""
        assert self.bags is not None
        is_word = words_I != BREAK
        rows, owner = self.bags.of(words_I[is_word])
        sizes_I = np.zeros(len(words_I), np.int64)
        sizes_I[is_word] = np.bincount(owner, minlength=int(is_word.sum()))
        return torch.from_numpy(rows).long(), torch.from_numpy(np.cumsum(sizes_I) - sizes_I), sizes_I

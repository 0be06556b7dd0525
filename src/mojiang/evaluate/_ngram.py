"""Interpolated modified Kneser-Ney n-grams (Chen & Goodman 1998) over token ids: the baseline a neural model must beat.

Everything is a sorted array. The n-grams of order k are numbered by their rank, and one of order k+1 is the pair
(rank of its first k tokens, last token) packed in one int64. This holds for any order and vocabulary, and counting,
ranking and look-up are `np.unique` and `np.searchsorted`.

Array suffixes:  N positions of the stream · G distinct n-grams of an order · C its contexts (n-grams one shorter)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mojiang.core.errors import BadInput

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length: their packed keys, discounted counts, and per context the total and back-off mass."""

    keys_G: Ints
    discounted_G: Floats
    total_C: Floats
    backoff_C: Floats


class KneserNey:
    """An n-gram language model trained on documents of token ids.

    Each document is read from the `boundary` token (usually `<|endoftext|>`), which is also predicted at its end.

    >>> model = KneserNey([[0, 1, 0, 1, 0], [0, 1, 2]], order=3, vocab_size=4, boundary=3)
    >>> bool(np.isclose(sum(model.probabilities([0, 1], following=range(4))), 1.0))
    True
    """

    def __init__(self, documents: Iterable[Sequence[int]], *, order: int, vocab_size: int, boundary: int) -> None:
        if order < 1:
            raise BadInput(f"n-gram order is {order}", hint="use an order of 1 or more; 4 or 5 is usual")
        self.order, self.vocab_size, self.boundary = order, vocab_size, boundary
        tokens_N, start_N = self._stream(documents)
        if tokens_N.size == 0:
            raise BadInput("no documents to train an n-gram model on")
        if int(tokens_N.max()) >= vocab_size or int(tokens_N.min()) < 0:
            raise BadInput(f"token id {int(tokens_N.max())} is outside a vocabulary of {vocab_size}")
        self.num_tokens = int((start_N > 0).sum())
        self._orders = self._train(tokens_N, start_N)

    def log_probabilities(self, document: Sequence[int]) -> Floats:
        """Natural log-probability of every token of a document and of the boundary that ends it: (len + 1,)."""
        tokens_N, _ = self._stream([document])
        probability_N = np.full(tokens_N.size - 1, 1.0 / self.vocab_size)
        rank_N: Ints = np.zeros(tokens_N.size, dtype=np.int64)
        for k, level in enumerate(self._orders):
            # Token i+1 is predicted from the k tokens up to i, whose rank is -1 where they are unseen or fewer than k.
            context_N, next_N = rank_N[:-1], tokens_N[1:]
            found_N = next_N if k == 0 else _find(level.keys_G, context_N, next_N, self.vocab_size)
            probability_N = _interpolate(level, context_N, found_N, probability_N)
            rank_N = np.concatenate([tokens_N[:1] if k == 0 else np.array([-1]), found_N])
        result: Floats = np.log(probability_N)
        return result

    def probabilities(self, history: Sequence[int], following: Iterable[int]) -> list[float]:
        """Probability of each token of `following` right after the `history` that opens a document."""
        return [float(np.exp(self.log_probabilities([*history, token])[len(history)])) for token in following]

    def _stream(self, documents: Iterable[Sequence[int]]) -> tuple[Ints, Ints]:
        """All documents end to end, each between two boundaries; and every token's offset within its document."""
        edge = np.array([self.boundary], dtype=np.int64)
        parts = [np.concatenate([edge, np.asarray(d, dtype=np.int64), edge]) for d in documents]
        if not parts:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(parts), np.concatenate([np.arange(p.size, dtype=np.int64) for p in parts])

    def _train(self, tokens_N: Ints, offset_N: Ints) -> list[_Order]:
        """Rank the n-grams of each length, then give the longest raw counts and the others continuation counts."""
        V = self.vocab_size
        keys, raw = [np.arange(V)], [np.bincount(tokens_N[offset_N > 0], minlength=V)]
        opening, suffix_of_next = [np.zeros(V, dtype=bool)], []
        rank_N = tokens_N
        for k in range(1, self.order):
            at = np.flatnonzero(offset_N >= k)
            if at.size == 0:
                break  # no document is this long
            packed = rank_N[at - 1] * V + tokens_N[at]
            unique, first, inverse, counts = np.unique(
                packed, return_index=True, return_inverse=True, return_counts=True
            )
            suffix_of_next.append(rank_N[at[first]])
            opening.append(offset_N[at[first]] == k)
            rank_N = np.full(tokens_N.size, -1, dtype=np.int64)
            rank_N[at] = inverse
            keys.append(unique)
            raw.append(counts)
        levels = []
        for k in range(len(keys)):
            counts = raw[k]
            if k < len(keys) - 1:
                # Kneser-Ney: a shorter n-gram counts the different tokens seen before it, not its occurrences. One that
                # opens documents has nothing before it, so its occurrences stand (as in KenLM, Heafield 2013).
                continuations = np.bincount(suffix_of_next[k], minlength=counts.size)
                counts = np.where(opening[k], counts, continuations)
            num_contexts = 1 if k == 0 else keys[k - 1].size
            context_G = np.zeros(V, dtype=np.int64) if k == 0 else keys[k] // V
            levels.append(_level(keys[k], counts, context_G, num_contexts))
        return levels


def _level(keys_G: Ints, counts_G: Ints, context_G: Ints, num_contexts: int) -> _Order:
    discounts: Floats = np.array([0.0, *_discounts(counts_G)])
    discount_G = discounts[np.minimum(counts_G, 3)]
    total_C = np.bincount(context_G, weights=counts_G, minlength=num_contexts)
    freed_C = np.bincount(context_G, weights=discount_G, minlength=num_contexts)
    backoff_C = np.divide(freed_C, total_C, out=np.ones(num_contexts), where=total_C > 0)
    return _Order(keys_G, counts_G - discount_G, total_C.astype(np.float64), backoff_C)


def _discounts(counts_G: Ints) -> tuple[float, float, float]:
    """What is taken off counts of 1, 2 and ≥ 3, estimated from the counts of counts (Chen & Goodman 1998, eq. 26)."""
    n1, n2, n3, n4 = (int((counts_G == c).sum()) for c in (1, 2, 3, 4))
    fallback = 0.5, 1.0, 1.5  # KenLM's, where there is too little data to estimate
    if 0 in (n1, n2, n3, n4):
        return fallback
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    # Skewed small samples give others: above the count mass is negative; at 0 a context leaves nothing for what it has
    # not seen, which then is impossible.
    return found if all(0 < discount <= count for count, discount in enumerate(found, start=1)) else fallback


def _find(keys_G: Ints, context_N: Ints, next_N: Ints, vocab_size: int) -> Ints:
    """Rank of each (context, token), or -1 where that n-gram was never seen."""
    wanted_N = context_N * vocab_size + next_N
    rank_N = np.minimum(np.searchsorted(keys_G, wanted_N), keys_G.size - 1)
    return np.where((context_N >= 0) & (keys_G[rank_N] == wanted_N), rank_N, -1)


def _interpolate(level: _Order, context_N: Ints, found_N: Ints, lower_N: Floats) -> Floats:
    """Discounted estimate plus the freed mass times the shorter context's estimate; unseen contexts defer wholly."""
    total_N = level.total_C[np.maximum(context_N, 0)]
    known_N = (context_N >= 0) & (total_N > 0)
    direct_N = np.where(found_N >= 0, level.discounted_G[np.maximum(found_N, 0)], 0.0)
    mixed_N = direct_N / np.where(known_N, total_N, 1.0) + level.backoff_C[np.maximum(context_N, 0)] * lower_N
    return np.where(known_N, mixed_N, lower_N)

"""MinHash with banding: which documents may be near copies, and which of them are.

A document's signature is the smallest of its shingles under each of many hash functions; two signatures agree in a
place with probability J, the Jaccard similarity of the two sets (Broder 1997). Signatures are cut into bands, and
documents that agree in a whole band are candidates (Leskovec et al., Mining of Massive Datasets, chapter 3). What a
candidate pair really has in common is then counted, so that nothing is called a copy by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from mojiang.data._shingles import Hashes, Places, Shingled
from mojiang.data._spill import distinct

ALL_PAIRS: Final = (
    24  # a band's group up to this size is compared in all pairs, a larger one with its first and neighbours
)
_UNRELATED: Final = 0.1  # similarity of texts that have nothing but their language in common, on the high side
_FEW: Final = 20.0
_MAX_HASHES: Final = 512
_BLOCK: Final = 2**15  # shingles hashed at a time: 128 kB
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)

Pairs = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Bands:
    """How signatures are cut: `bands` of `rows` hash functions each."""

    bands: int
    rows: int

    def found(self, similarity: float) -> float:
        """Probability that a pair of this similarity becomes a candidate."""
        return float(1.0 - (1.0 - similarity**self.rows) ** self.bands)


def choose_bands(threshold: float, error: float, documents: int) -> Bands:
    """The cheapest cut that misses a pair at the threshold with at most probability `error`.

    More rows make fewer unrelated candidates, and need more bands: rows are added until a document is expected to meet
    no more than a few unrelated others (comparing costs less than signing), or the signature gets too long.

    >>> choose_bands(0.8, 0.01, 20_000), round(choose_bands(0.8, 0.01, 20_000).found(0.8), 3)
    (Bands(bands=9, rows=4), 0.991)
    """
    chosen = Bands(1, 1)
    for rows in range(1, 33):
        needed = math.log(error) / math.log1p(-(threshold**rows)) if threshold < 1 else 1.0
        bands = Bands(max(1, math.ceil(needed)), rows)
        if rows > 1 and bands.bands * rows > _MAX_HASHES:
            break
        chosen = bands
        if bands.bands * _UNRELATED**rows * documents <= _FEW:
            break
    return chosen


@cache
def _functions(number: int) -> tuple[Hashes, Hashes]:
    """Constants of so many hash functions on 32-bit numbers, always the same: h(x) = (x xor a) · b, b odd."""
    drawn = np.random.Generator(np.random.PCG64(20_260_101)).integers(0, 2**32, (2, _MAX_HASHES), np.uint32)
    return drawn[0, :number], drawn[1, :number] | np.uint32(1)


def band_keys(shingled: Shingled, cut: Bands) -> Keys:
    """(documents, bands): one number per band, equal where all its minima are; texts without shingles have zeros."""
    starts = shingled.starts
    some = np.flatnonzero(np.diff(starts))
    keys = np.zeros((len(starts) - 1, cut.bands), np.uint64)
    at = 0
    while at < len(some):
        begin = int(starts[some[at]])
        stop = max(at + 1, int(np.searchsorted(starts[some + 1], begin + _BLOCK, "right")))
        block = shingled.hashes[begin : int(starts[some[stop - 1] + 1])]
        keys[some[at:stop]] = _keys_of(block, starts[some[at:stop]] - begin, cut)
        at = stop
    return keys


def _keys_of(hashes: Hashes, starts: Places, cut: Bands) -> Keys:
    xors, odds = _functions(cut.bands * cut.rows)
    keys = np.empty((cut.bands, len(starts)), np.uint64)
    mixed = np.empty_like(hashes)
    with np.errstate(over="ignore"):
        for band in range(cut.bands):
            key = np.full(len(starts), band + 1, np.uint64)
            for row in range(band * cut.rows, (band + 1) * cut.rows):
                np.bitwise_xor(hashes, xors[row], out=mixed)
                np.multiply(mixed, odds[row], out=mixed)
                key = (key ^ np.minimum.reduceat(mixed, starts)) * _MULTIPLIER
                key ^= key >> np.uint64(31)
            keys[band] = key
    return keys.T


def pairs_in_band(keys: Keys, documents: Pairs) -> Pairs:
    """Pairs (N, 2) of documents with equal keys, the smaller number first.

    A group of more than `ALL_PAIRS` is not compared in all pairs, which would grow with its square: each is compared
    with the first of the group and with the next two, and the other bands group them differently.
    """
    order = np.argsort(keys)
    ordered = keys[order]
    same = np.zeros(len(keys) + 1, bool)
    same[1:-1] = ordered[1:] == ordered[:-1]
    order = order[same[1:] | same[:-1]]  # most documents are alone
    keys, documents = keys[order], documents[order]
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(keys)))
    found = [np.zeros((0, 2), np.int64)]
    for size in np.unique(sizes[(sizes > 1) & (sizes <= ALL_PAIRS)]).tolist():
        left, right = np.triu_indices(size, 1)
        members = starts[sizes == size][:, None]
        found.append(np.stack([(members + left).ravel(), (members + right).ravel()], 1))
    for start, size in zip(starts[sizes > ALL_PAIRS].tolist(), sizes[sizes > ALL_PAIRS].tolist(), strict=True):
        members = np.arange(start, start + size)
        for left, right in ((np.full(size - 1, start), members[1:]), (members[:-1], members[1:]),
                            (members[:-2], members[2:])):  # fmt: skip
            found.append(np.stack([left, right], 1))
    pairs: Pairs = documents[np.concatenate(found)]
    return pairs


def unique_pairs(pairs: Iterable[Pairs]) -> Pairs:
    """All different pairs, in order."""
    packed = [np.zeros(0, np.uint64)]
    for part in pairs:  # one number a pair sorts many times faster than two; 2^32 documents have to be enough
        packed.append(part[:, 0].astype(np.uint64) << np.uint64(32) | part[:, 1].astype(np.uint64))
    every = distinct(np.concatenate(packed))
    return np.stack([every >> np.uint64(32), every & np.uint64(2**32 - 1)], 1).astype(np.int64)


def as_sets(shingled: Shingled) -> Shingled:
    """The shingles of each text sorted and without repeats."""
    lengths = np.diff(shingled.starts)
    tagged = np.repeat(np.arange(len(lengths), dtype=np.uint64) << np.uint64(32), lengths) | shingled.hashes
    tagged.sort()
    tagged = tagged[np.concatenate([[True], tagged[1:] != tagged[:-1]])] if len(tagged) else tagged
    texts = (tagged >> np.uint64(32)).astype(np.int64)
    starts = np.searchsorted(texts, np.arange(len(lengths) + 1))
    return Shingled(tagged.astype(np.uint32), starts.astype(np.int64))


def jaccard(sets: Shingled, pairs: Pairs, threshold: float = 0.0) -> npt.NDArray[np.float64]:
    """Exact Jaccard similarity of pairs of sets; where sizes alone rule the threshold out, 0."""
    sizes = np.diff(sets.starts)[pairs]
    similarities = np.zeros(len(pairs))
    possible = np.flatnonzero((sizes.min(1) > 0) & (sizes.min(1) >= threshold * sizes.max(1)))
    both = sizes[possible].sum(1)
    at = 0
    reach = np.cumsum(both)
    while at < len(possible):
        stop = max(at + 1, int(np.searchsorted(reach, (reach[at - 1] if at else 0) + 16 * _BLOCK, "right")))
        chosen = possible[at:stop]
        shared = _shared(sets, pairs[chosen])
        similarities[chosen] = shared / (both[at:stop] - shared)
        at = stop
    return similarities


def _shared(sets: Shingled, pairs: Pairs) -> Places:
    """How many members the two sets of each pair share."""
    ends = pairs.ravel()
    lengths = sets.starts[ends + 1] - sets.starts[ends]
    firsts = np.cumsum(lengths) - lengths
    where = np.arange(int(lengths.sum())) + np.repeat(sets.starts[ends] - firsts, lengths)
    tagged = np.repeat((np.arange(len(ends), dtype=np.uint64) >> np.uint64(1)) << np.uint64(32), lengths)
    tagged |= sets.hashes[where]
    tagged.sort()
    twice = tagged[1:][tagged[1:] == tagged[:-1]] >> np.uint64(32)
    return np.bincount(twice.astype(np.int64), minlength=len(pairs)).astype(np.int64)


def components(count: int, edges: Pairs) -> Places:
    """For each of `count` nodes the smallest node it is connected with: union-find, all edges at a time.

    >>> components(6, np.array([[4, 2], [2, 5], [0, 1]])).tolist()
    [0, 0, 2, 3, 2, 2]
    """
    parent: Places = np.arange(count)
    while True:
        left, right = parent[edges[:, 0]], parent[edges[:, 1]]
        low, high = np.minimum(left, right), np.maximum(left, right)
        if (low == high).all():
            return parent
        np.minimum.at(parent, high, low)
        while (parent[parent] != parent).any():
            parent = parent[parent]

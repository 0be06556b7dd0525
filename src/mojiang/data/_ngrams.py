"""N-grams that are in a text again and again: counted one text at a time, or ruled out for thousands at once.

Counting n-grams of strings takes most of the time of Gopher's rules on repetition, and hardly any text breaks them. So
the n-grams of many texts are hashed and sorted together first, which gives an upper bound of what each rule measures:
one hash for equal n-grams, so that at worst two different ones are taken for the same. Where the bound keeps the rule,
so does the text; where it does not, the n-grams are counted. The verdicts are those of counting alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mojiang.data._shingles import powers

_BLOCK: Final = 2**17  # characters hashed at a time: arrays of 1 MB
_BLOCK_TEXTS: Final = 2**13  # as many as the bits of a key tell apart
_TEXT_SHIFT, _LENGTH_BITS = np.uint64(51), 10
_LONG: Final = 2**_LENGTH_BITS - 1
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SURE: Final = 1 - 1e-9  # the shares are compared after a division elsewhere

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class Calm(NamedTuple):
    """What is ruled out for a text."""

    top: bool
    """That one n-gram fills too much of it."""
    repeated: bool
    """That n-grams which were there before fill too much of it."""


NOT_KNOWN: Final = Calm(False, False)


def top_ngram(tokens: Sequence[str], n: int, space: str) -> int:
    """Characters of the commonest n-gram, times how often it is there; `space` stands between its words."""
    grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    if not grams:
        return 0
    gram, number = grams.most_common(1)[0]
    return len(space.join(gram)) * number


def repeated_ngrams(tokens: Sequence[str], n: int) -> int:
    """Characters in n-grams that were there before, none counted twice."""
    seen: set[str] = set()
    characters = place = 0
    while place < len(tokens) - n + 1:
        gram = "".join(tokens[place : place + n])
        if gram in seen:
            characters += len(gram)
            place += n
        else:
            seen.add(gram)
            place += 1
    return characters


def rule_out(
    sizes: Sequence[int], tokens: Sequence[Sequence[str]], top: Mapping[int, float], repeated: Mapping[int, float],
    space: str,
) -> list[Calm]:  # fmt: skip
    """Whether `top_ngram` and `repeated_ngrams` surely stay within these shares of each text's size, for every n."""
    if any(n < 1 for n in (*top, *repeated)):
        return [NOT_KNOWN] * len(tokens)
    found: list[Calm] = []
    for first, stop in _blocks(tokens):
        grams = _Grams(tokens[first:stop])
        room = np.array(sizes[first:stop], np.float64) * _SURE
        one = np.all([grams.largest(n, len(space)) <= share * room for n, share in top.items()], axis=0)
        many = _few_again(tokens[first:stop], grams, room, repeated)
        found += [Calm(*flags) for flags in zip(_flags(one, stop - first), _flags(many, stop - first), strict=True)]
    return found


def _flags(value: npt.NDArray[np.bool_] | np.bool_, count: int) -> list[bool]:
    flags: list[bool] = np.broadcast_to(value, count).tolist()
    return flags


def _blocks(tokens: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    first = size = 0
    for number, some in enumerate(tokens):
        size += 6 * len(some)
        if size >= _BLOCK or number + 1 - first >= _BLOCK_TEXTS or number + 1 == len(tokens):
            yield first, number + 1
            first, size = number + 1, 0


def _few_again(
    tokens: Sequence[Sequence[str]], grams: _Grams, room: Floats, shares: Mapping[int, float]
) -> npt.NDArray[np.bool_]:
    few = np.ones(len(room), bool)
    if not shares:
        return few
    (n, share), *longer = sorted(shares.items())
    characters = grams.again(n)
    few = characters <= share * room
    # Where no n-gram is there twice, no longer one is: few texts are left to look at.
    left = np.flatnonzero(few & (characters > 0))
    if len(left) and longer:
        grams = _Grams([tokens[number] for number in left.tolist()])
        for n, share in longer:
            few[left] &= grams.again(n) <= share * room[left]
    return few


class _Grams:
    """The n-grams of some texts, as hashes of their characters one after the other."""

    def __init__(self, tokens: Sequence[Sequence[str]]) -> None:
        counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
        flat = list(chain.from_iterable(tokens))
        self.count, self.texts = len(flat), len(tokens)
        self.lengths = np.fromiter(map(len, flat), np.int64, len(flat))
        self.edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        codes = np.frombuffer("".join(flat).encode("utf-32-le", "surrogatepass"), np.uint32)
        # A polynomial over all characters; what stands between two places is a difference, divided by its place.
        up, down = powers(max(15, (len(codes) + 1).bit_length()))
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum((codes + np.uint32(1)) * up[: len(codes)], out=sums[1:])
        self.sums = sums[self.edges]
        self.down = down[self.edges]
        self.text = np.repeat(np.arange(len(tokens)), counts)
        self.stop = np.repeat(np.cumsum(counts), counts)

    def windows(self, n: int) -> tuple[Ints, Hashes]:
        """Where the n-grams begin that lie within a text, and their hashes."""
        starts = np.arange(max(0, self.count - n + 1))
        starts = starts[starts + n <= self.stop[: len(starts)]]
        hashes = (self.sums[starts + n] - self.sums[starts]) * self.down[starts]
        hashes ^= hashes >> np.uint64(29)
        return starts, hashes * _MULTIPLIER

    def keys(self, starts: Ints, values: Hashes) -> Hashes:
        """One number for what is the same in the same text; the text is in its highest bits."""
        return self.text[starts].astype(np.uint64) << _TEXT_SHIFT | values

    def largest(self, n: int, space: int) -> Floats:
        """At least the characters of the commonest n-gram of each text, times how often it is there."""
        largest = np.zeros(self.texts)
        starts, hashes = self.windows(n)
        if len(starts) == 0:
            return largest
        sizes = self.edges[starts + n] - self.edges[starts] + (n - 1) * space
        bits = np.uint64(_LENGTH_BITS)
        values = hashes >> np.uint64(23) << bits | np.minimum(sizes, _LONG).astype(np.uint64)
        keys = np.sort(self.keys(starts, values))
        firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        times = np.diff(np.append(firsts, len(keys)))
        keys = keys[firsts]
        np.maximum.at(largest, keys >> _TEXT_SHIFT, (times * (keys & np.uint64(_LONG)).astype(np.int64)).astype(float))
        largest[self.text[starts[sizes >= _LONG]]] = np.inf  # too long for the bits of a key
        return largest

    def again(self, n: int) -> Floats:
        """At least the characters of each text that are in n-grams which are there more than once."""
        starts, hashes = self.windows(n)
        keys = self.keys(starts, hashes >> np.uint64(13))
        ordered = np.sort(keys)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice) == 0:
            return np.zeros(self.texts)
        found = starts[twice[np.minimum(np.searchsorted(twice, keys), len(twice) - 1)] == keys]
        change = np.bincount(found, minlength=self.count + 1) - np.bincount(found + n, minlength=self.count + 1)
        inside = np.flatnonzero(np.cumsum(change)[:-1])
        characters: Floats = np.bincount(self.text[inside], self.lengths[inside], self.texts).astype(np.float64)
        return characters

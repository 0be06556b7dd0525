"""Features of characters and of words as 64-bit keys, computed for whole corpora at once.

A feature is a template with what stands at its places, such as (this character, the next). Its key is a hash of both,
so there is no dictionary of strings to build: a model keeps the sorted keys that it has weights for, and what is looked
up and not found has none.

Array names carry their shape: N positions (characters or words) · K templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.text._matrix import csr_matrix

Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_EDGE: Final = 1  # the code of what lies before the first and after the last position
# Offsets of the characters that a template joins.
_CHARACTERS: Final = ((0,), (-1,), (1,), (-2,), (2,), (-2, -1), (-1, 0), (0, 1), (1, 2), (-1, 1), (-1, 0, 1))
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)


def mix(keys: Keys, more: Any) -> Keys:
    """A hash of a hash and one number more (the finaliser of SplitMix64)."""
    mixed = (keys ^ np.asarray(more).astype(np.uint64)) * _ODD
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(mixed ^ (mixed >> np.uint64(27)), np.uint64)


def codes_of(text: str) -> Ints:
    """Code points; full-width letters, digits and marks as their half-width twins.

    >>> codes_of("Ａ1。").tolist() == codes_of("A1。").tolist()
    True
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    return np.where((codes >= 0xFF01) & (codes <= 0xFF5E), codes - 0xFEE0, codes)


def kinds_of(codes: Ints) -> Ints:
    """The kind of each character: other, Han, digit, Latin letter, Chinese numeral, white space, date word, mark."""
    kinds = np.zeros(len(codes), np.int64)
    kinds[(codes >= 0x3400) & (codes <= 0x9FFF) | (codes >= 0x20000)] = 1
    kinds[(codes >= 48) & (codes <= 57)] = 2
    kinds[(codes >= 65) & (codes <= 90) | (codes >= 97) & (codes <= 122)] = 3
    kinds[np.isin(codes, _points("〇零一二三四五六七八九十百千万亿两"))] = 4
    kinds[np.isin(codes, _points(" \t\n\u3000"))] = 5
    kinds[np.isin(codes, _points("年月日时分秒"))] = 6
    kinds[np.isin(codes, _points("，。、；：？！“”‘’（）《》【】…—,.;:?!\"'()-"))] = 7
    return kinds


@cache
def _points(characters: str) -> Ints:
    return np.array([ord(c) for c in characters])


class Window:
    """Values of flat sequences, to be read at an offset without crossing a sequence's border."""

    def __init__(self, lengths: Ints) -> None:
        first = np.repeat(np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        self._place = np.arange(int(lengths.sum())) - first
        self._left = np.repeat(lengths, lengths) - 1 - self._place

    def at(self, values: Any, offset: int, edge: int = _EDGE) -> Any:
        """Each position's neighbour at `offset`, `edge` beyond the border."""
        inside = self._left >= offset if offset >= 0 else self._place >= -offset
        return np.where(inside, np.roll(values, -offset), values.dtype.type(edge))


def character_keys(sentences: Sequence[str]) -> tuple[Keys, Ints]:
    """Keys (N, K) of all characters of the sentences one after another, and the sentences' lengths."""
    lengths = np.array([len(s) for s in sentences], np.int64)
    codes = codes_of("".join(sentences))
    window = Window(lengths)
    around = {offset: window.at(codes, offset) for offset in range(-2, 3)}
    columns = [_joined(number, [around[o] for o in template]) for number, template in enumerate(_CHARACTERS)]
    kinds = kinds_of(codes)
    columns.append(_joined(20, [window.at(kinds, offset, 9) for offset in (-1, 0, 1)]))
    same = (around[-1] == codes) + 2 * (around[1] == codes) + 4 * (around[-2] == codes)
    columns.append(_joined(21, [same]))
    return np.stack(columns, axis=1), lengths


def _joined(template: int, parts: Sequence[Any]) -> Keys:
    keys = np.full(len(parts[0]), template + 1, np.uint64) * _ODD
    for part in parts:
        keys = mix(keys, part)
    return keys


def word_features(sentences: Sequence[Sequence[str]]) -> tuple[Keys, Ints]:
    """Keys (N, K) of all words of the sentences one after another, and the sentences' lengths, for tagging them."""
    lengths = np.array([len(s) for s in sentences], np.int64)
    ids: dict[str, int] = {}
    flat = np.array([ids.setdefault(word, len(ids)) for sentence in sentences for word in sentence], np.int64)
    table = _word_table(ids)
    word, first, last, pair, shape, size = (column[flat] for column in table)
    window = Window(lengths)
    around = {offset: window.at(word, offset) for offset in (-2, -1, 1, 2)}
    templates = [
        [word], [around[-1]], [around[1]], [around[-2]], [around[2]], [first], [last], [pair], [shape], [size, last],
        [window.at(last, -1), first], [last, window.at(first, 1)], [window.at(shape, -1), shape, window.at(shape, 1)],
    ]  # fmt: skip
    return np.stack([_joined(100 + number, parts) for number, parts in enumerate(templates)], axis=1), lengths


def _word_table(ids: Mapping[str, int]) -> list[Keys]:
    """For each word: its hash, first and last character, last two, the kinds of its characters, its length."""
    rows = np.zeros((len(ids), 6), np.uint64)
    start = np.full(1, 7, np.uint64)
    for word, number in ids.items():
        codes = codes_of(word)
        whole, kinds = start, start
        for code in codes[:40]:
            whole = mix(whole, code)
        for kind in np.unique(kinds_of(codes)):
            kinds = mix(kinds, kind)
        pair = mix(start * np.uint64(codes[-2]), codes[-1]) if len(codes) > 1 else start
        rows[number] = (whole[0], codes[0], codes[-1], pair[0], kinds[0], min(len(codes), 6))
    return list(rows.T)


def known_columns(keys_NK: Keys, vocabulary: Keys) -> Any:
    """The keys that the sorted vocabulary knows, as a sparse matrix of ones (N, vocabulary)."""
    place = np.minimum(np.searchsorted(vocabulary, keys_NK), max(len(vocabulary) - 1, 0))
    known = vocabulary[place] == keys_NK if len(vocabulary) else np.zeros(keys_NK.shape, bool)
    ends = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    columns = place[known].astype(np.int32)
    return csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape=(len(keys_NK), len(vocabulary)))


def vocabulary_of(keys_NK: Keys, at_least: int) -> Keys:
    """The sorted keys that occur so often."""
    keys, counts = np.unique(keys_NK, return_counts=True)
    return np.asarray(keys[counts >= at_least])

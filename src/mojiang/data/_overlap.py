"""Which texts of evaluation sets stand in documents: an index of their n-grams, and where a document has them.

An n-gram is a run of words, or of characters in scripts without spaces (see `_shingles`), so case, punctuation and line
ends hide nothing. An item shorter than one n-gram is looked for as a whole, unless it is so short that it would be
found anywhere; how many were is said.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mojiang.data._documents import SCHEMA, SPLITS, read_shards
from mojiang.data._forms import META
from mojiang.data._shingles import BLOCK_CHARACTERS, Units, plain, run_hashes, units_of

_OF_DOCUMENTS: Final = frozenset(SCHEMA.names) - {"text"}
_OF_EXAMPLES: Final = frozenset((*(field.name for field in META), "label", "labels", "role", "name"))
BESIDE: Final = ("drops-", "matches-", "origins-", "pages-", "pii-", "clusters-")  # tables about the rows, not rows
_FILTER_BITS: Final = 22
_ENTRY: Final = np.dtype([("hash", np.uint64), ("item", np.int64), ("offset", np.int64), ("length", np.int64)])


class Item(NamedTuple):
    """A text of an evaluation set."""

    benchmark: int
    name: str
    units: int


@dataclass(frozen=True)
class Match:
    """An item that stands in a document: how much of it, and where, in characters of the document."""

    row: int
    item: int
    share: float
    spans: tuple[tuple[int, int], ...]


@dataclass
class Index:
    """The n-grams of all items, sorted by hash."""

    items: list[Item] = field(default_factory=list)
    too_short: dict[int, int] = field(default_factory=dict)
    entries: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, _ENTRY))

    def save(self, folder: Path, benchmarks: Sequence[str]) -> None:
        """Write what a worker needs."""
        np.save(folder / "entries.npy", self.entries)
        np.save(folder / "units.npy", np.array([item.units for item in self.items], np.int64))
        names = [f"{benchmarks[item.benchmark]} {item.name}" for item in self.items]
        (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")


def texts_in(path: Path, splits: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every text of an evaluation set with its name, from the given splits where it has been split."""
    shards = [p for name in splits for p in sorted((path / name).glob("*-[0-9]*.parquet"))]
    if not any((path / name).is_dir() for name in SPLITS):
        shards = [p for p in sorted(path.glob("*-[0-9]*.parquet")) if not p.name.startswith(BESIDE)]
    for batch in read_shards(shards):
        passed_over = _OF_DOCUMENTS if set(SCHEMA.names) <= set(batch.schema.names) else _OF_EXAMPLES
        for row in batch.to_pylist():
            for name, text in _strings(row, "", passed_over):
                yield f"{row.get('path', row.get('id', ''))}{name}", text


def _strings(value: Any, name: str, passed_over: frozenset[str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in passed_over:
                yield from _strings(inner, f"{name}:{key}", passed_over)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{name}:{number}", passed_over)


def build_index(sets: Sequence[Iterator[tuple[str, str]]], words: int, characters: int) -> Index:
    """Index the texts of several evaluation sets; a text that a set has several times counts once."""
    index, parts = Index(), [np.zeros(0, _ENTRY)]
    for benchmark, texts in enumerate(sets):
        seen: set[str] = set()
        index.too_short[benchmark] = 0
        for name, text in texts:
            folded = plain(text)
            if folded in seen:
                continue
            seen.add(folded)
            entries, units = _entries(units_of([folded]), len(index.items), words, characters)
            if len(entries) == 0:
                index.too_short[benchmark] += units > 0
                continue
            index.items.append(Item(benchmark, name, units))
            parts.append(entries)
    every = np.concatenate(parts)
    index.entries = every[np.argsort(every["hash"], kind="stable")]
    return index


def _entries(units: Units, item: int, words: int, characters: int) -> tuple[npt.NDArray[np.void], int]:
    """The n-grams of an item; the whole of it where it has none but is at least half as long as one."""
    count = len(units.hashes)
    sizes = np.where(units.unspaced, characters, words)
    at = np.flatnonzero(np.arange(count) + sizes <= count)
    half = (characters if units.unspaced.mean() > 0.5 else words) // 2 if count else 0
    if len(at) == 0 and 0 < half <= count:
        at, sizes = np.zeros(1, np.int64), np.full(1, count)
    entries = np.zeros(len(at), _ENTRY)
    if len(at):
        entries["item"], entries["offset"], entries["length"] = item, at, sizes[at]
        hashes = _hashes(units, set(entries["length"].tolist()))
        entries["hash"] = [hashes[int(length)][place] for place, length in zip(at, entries["length"], strict=True)]
    return entries, count


def _hashes(units: Units, lengths: set[int]) -> dict[int, npt.NDArray[np.uint64]]:
    with np.errstate(over="ignore"):
        return run_hashes(units.hashes, lengths)


class Finder:
    """Looks for the items of a saved index."""

    def __init__(self, folder: Path) -> None:
        self.names: list[str] = json.loads((folder / "names.json").read_text(encoding="utf-8"))
        self.entries, self.units = np.load(folder / "entries.npy"), np.load(folder / "units.npy")
        self.lengths = set(self.entries["length"].tolist())
        self._keys = np.ascontiguousarray(self.entries["hash"])
        self._filter = np.zeros(2**_FILTER_BITS, bool)  # most n-grams of a document end here
        self._filter[self._slot(self._keys)] = True

    @staticmethod
    def _slot(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return (hashes ^ (hashes >> np.uint64(33))) & np.uint64(2**_FILTER_BITS - 1)

    def matches(self, texts: Sequence[str]) -> list[Match]:
        """The items that stand in these texts, in whole or in part."""
        found: list[Match] = []
        first = size = 0
        for number, text in enumerate(texts):
            size += len(text)
            if size >= BLOCK_CHARACTERS or number == len(texts) - 1:
                found += self._block(texts[first : number + 1], first)
                first, size = number + 1, 0
        return found

    def _block(self, texts: Sequence[str], row: int) -> Iterator[Match]:
        folded = [plain(text) for text in texts]
        units = units_of(folded)
        hits: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for unit, entry in self._hits(units):
            _, item, offset, length = self.entries[entry].tolist()
            text = int(np.searchsorted(units.starts, unit, "right")) - 1
            hits.setdefault((text, item), []).append((unit, offset, length))
        begins = np.concatenate([[0], np.cumsum([len(text) for text in folded])])
        for (text, item), runs in sorted(hits.items()):
            covered = united((offset, offset + length) for _, offset, length in runs)
            share = sum(stop - start for start, stop in covered) / int(self.units[item])
            spans = [
                (int(units.at[first] - begins[text]), int(units.stop[last - 1] - begins[text]))
                for first, last in united((unit, unit + length) for unit, _, length in runs)
            ]
            if len(folded[text]) != len(texts[text]):
                places = _places(texts[text], folded[text])
                spans = [(places[first], places[last - 1] + 1) for first, last in spans]
            yield Match(row + text, item, share, tuple(spans))

    def _hits(self, units: Units) -> list[tuple[int, int]]:
        """(unit, entry) of every n-gram that an item has."""
        hits: list[tuple[int, int]] = []
        if len(units.hashes) == 0 or not self.lengths:
            return hits
        text_end = np.repeat(units.starts[1:], np.diff(units.starts))
        for length, hashes in _hashes(units, self.lengths).items():
            whole = np.arange(length, length + len(hashes)) <= text_end
            at = np.flatnonzero(self._filter[self._slot(hashes)] & whole)
            low, high = (np.searchsorted(self._keys, hashes[at], side) for side in ("left", "right"))
            for unit, first, stop in zip(at.tolist(), low.tolist(), high.tolist(), strict=True):
                hits += [(unit, entry) for entry in range(first, stop) if self.entries["length"][entry] == length]
        return hits


@lru_cache(maxsize=1)
def finder(folder: Path, fingerprint: str) -> Finder:
    """The finder of a folder, opened once in each worker; the fingerprint says when it is another."""
    return Finder(folder)


def united(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping and touching ranges as one, sorted.

    >>> united([(5, 7), (0, 2), (2, 3), (6, 9)])
    [(0, 3), (5, 9)]
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _places(text: str, folded: str) -> list[int]:
    """For each character of the folded text where it comes from: folding joins marks to letters, and makes ß of ẞ."""
    places: list[int] = []
    at = 0
    while at < len(text):
        stop = at + 1
        while stop < len(text) and unicodedata.combining(text[stop]):
            stop += 1
        places += [at] * len(plain(text[at:stop]))
        at = stop
    return (places + [len(text) - 1] * len(folded))[: len(folded)]

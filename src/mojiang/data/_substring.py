"""Long passages that stand in a corpus more than once: all but the first are cut, exactly and larger than memory.

What a suffix array with longest common prefixes of at least L would say (Lee et al. 2022, ExactSubstr), found without
one, so that memory is bounded by buckets on disk and not by the corpus:

    anchors    in every run of L characters the L/2-gram with the smallest hash; two equal runs have the same anchors
               (winnowing, Schleimer et al. 2003), and only few places of a text are one
    windows    around the anchors that stand in the corpus more than once: every run of L characters, by its hash
    cuts       of equal runs the first stays; every other that does not overlap it is cut

Everything counts characters, never bytes: a cut cannot fall inside one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mojiang.data._documents import count_bytes, count_documents, without
from mojiang.data._exact import ENTRY, content_key, copies_in, hashes_of
from mojiang.data._shingles import powers
from mojiang.data._spill import Spill, distinct, spill_pass

if TYPE_CHECKING:
    from mojiang.core.run import Run

BUCKET_ENTRIES = 8_000_000  # 128 MB of hashes in memory at a time
_MOST_BUCKETS: Final = 4096
_SPAN_BITS: Final = 22  # places of one bucket lie in stretches of so many characters, dealt out in turn
_BLOCK_CHARACTERS: Final = 2**15  # arrays of a block stay in the processor's cache
_HASHED: Final = np.dtype([("hash", np.uint64), ("place", np.int64)])
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_LARGEST: Final = np.uint64(2**64 - 1)

Places = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


class Item(NamedTuple):
    """A batch: the place of its first character, its documents' orders and texts, and marked places in it."""

    place: int
    orders: Places
    texts: list[str]
    places: Places


class Repeats:
    """Which runs of at least `length` characters of a corpus stood there before.

    A place is a number of characters from the beginning of all texts that are not gone.
    """

    def __init__(self, run: Run, source: Path, gone: Places, length: int) -> None:
        self.run, self.source, self.gone, self.length = run, source, gone, length
        self.total, self._bytes = count_documents(source) - len(gone), count_bytes(source)
        anchors = self._spill("anchors", partial(anchors_of, length), self._batches())
        again = self._again("again", anchors, lambda records: records["place"][in_groups(records["hash"])])
        windows = self._spill("windows", partial(windows_of, length), self._batches(again))
        self.cuts = self._again("cuts", windows, lambda records: repeated(records, length))
        self.equal = self._equal()

    def _batches(self, marks: Spill | None = None) -> Iterator[Item]:
        """All batches, with the places in them from `marks`."""
        first = 0
        for orders, rows in without(self.source, self.gone, ["text"]):
            texts = rows.read().column("text").to_pylist()
            stop = first + sum(map(len, texts))
            places = places_between(marks, first, stop) if marks else np.zeros(0, np.int64)
            yield Item(first, orders, texts, places)
            first = stop

    def _spill(self, name: str, function: Any, batches: Iterator[Item]) -> Spill:
        """A pass over the texts; what it finds goes to buckets by hash."""
        parts = min(_MOST_BUCKETS, self._bytes // BUCKET_ENTRIES + 1)  # even if every character began a repeated run
        spill = Spill(self.run.scratch / name, [_HASHED] * parts)

        def write(records: npt.NDArray[np.void]) -> None:
            spill.scatter((records["hash"] % np.uint64(parts)).astype(np.int64), records)

        spill_pass(self.run, spill, function, batches, write, lambda item: len(item.texts), self.total)
        return spill

    def _again(self, name: str, hashed: Spill, choose: Any) -> Spill:
        """Of each bucket by hash the chosen places, in buckets by place."""
        spill = Spill(self.run.scratch / name, [np.int64] * hashed.buckets)
        for bucket in range(spill.done, hashed.buckets):
            places = choose(hashed.read(bucket))
            spill.scatter(bucket_of(places, hashed.buckets), places)
            spill.batch_done(at_once=self.run.stopping)
            self.run.check_stop()
        spill.mark()
        return spill

    def _equal(self) -> Places:
        """Documents (orders) that are equal to another once they are cut; the first of equal ones stays."""
        everyone = hashes_of(self.run, count_documents(self.source))
        spill = Spill(self.run.scratch / "left", [ENTRY] * everyone.buckets)

        def write(entries: npt.NDArray[np.void]) -> None:
            spill.scatter(entries["low"].astype(np.uint64) % np.uint64(everyone.buckets), entries)

        batches, function = self._batches(self.cuts), partial(hashes_after, self.length)
        spill_pass(self.run, spill, function, batches, write, lambda item: len(item.texts), self.total)
        # What a document says before it is cut does not count.
        was_cut = distinct(np.concatenate([spill.read(bucket)["order"] for bucket in range(spill.buckets)]))
        out = np.concatenate([self.gone, was_cut.astype(np.int64)])
        found = [np.zeros(0, np.int64)]
        for bucket in range(spill.buckets):
            whole = everyone.read(bucket)
            whole = whole[~np.isin(whole["order"].astype(np.int64), out)]
            left = spill.read(bucket)
            copies = copies_in(np.concatenate([whole, left]))["order"]
            found += [np.intersect1d(copies, left["order"].astype(np.int64))]
            # An uncut document may come after its equal; then the cut one goes, which is the changed one.
            found += [left["order"].astype(np.int64)[np.isin(left["low"], whole["low"])]]
        return distinct(np.concatenate(found))

    def ranges(self) -> Iterator[dict[int, list[tuple[int, int]]]]:
        """For each batch of `without`: the runs to cut of its documents (rows), as (start, stop) in characters."""
        for item in self._batches(self.cuts):
            yield ranges_of(self.length, item)


def bucket_of(places: Places, buckets: int) -> Places:
    """The bucket of each place: neighbouring stretches of the corpus in turn."""
    return (places >> _SPAN_BITS) % buckets


def places_between(marks: Spill, first: int, stop: int) -> Places:
    """The places in [first, stop), sorted and each once."""
    stretches = np.arange(first >> _SPAN_BITS, (max(first, stop - 1) >> _SPAN_BITS) + 1)
    found = [np.zeros(0, np.int64)]
    for bucket in np.unique(stretches % marks.buckets).tolist():
        places = marks.read(bucket)
        found.append(places[(places >= first) & (places < stop)])
    return distinct(np.concatenate(found))


# -- a batch ------------------------------------------------------------------------------------------------------


class _Block:
    """Characters of some texts one after the other, and hashes of runs of them."""

    def __init__(self, texts: Sequence[str], place: int) -> None:
        self.place = place
        self.codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        self.ends = np.repeat(np.cumsum([len(text) for text in texts]), [len(text) for text in texts])
        self._down = powers(max(15, len(self.codes).bit_length()))[1]
        up = powers(max(15, len(self.codes).bit_length()))[0]
        with np.errstate(over="ignore"):
            sums = np.cumsum((self.codes.astype(np.uint64) + np.uint64(1)) * up[: len(self.codes)], dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, np.uint64), sums])

    def whole(self, length: int) -> npt.NDArray[np.bool_]:
        """At which characters a run of this length begins that lies within its text."""
        return np.arange(length, length + len(self.codes)) <= self.ends

    def hashes(self, length: int, at: Places) -> Keys:
        """Of the runs of this length that begin at these characters."""
        with np.errstate(over="ignore"):
            mixed: Keys = (self._sums[at + length] - self._sums[at]) * self._down[at]
            mixed ^= mixed >> np.uint64(32)
            mixed *= _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
        return mixed


def _blocks(texts: Sequence[str], place: int) -> Iterator[_Block]:
    first = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= _BLOCK_CHARACTERS or (number == len(texts) - 1 and size):
            yield _Block(texts[first : number + 1], place)
            first, place, size = number + 1, place + size, 0


def _records(hashes: Keys, places: Places) -> npt.NDArray[np.void]:
    records = np.empty(len(hashes), _HASHED)
    records["hash"], records["place"] = hashes, places
    return records


def anchors_of(length: int, item: Item) -> npt.NDArray[np.void]:
    """The anchors of a batch: hash and place."""
    place, texts = item.place, item.texts
    gram = length // 2
    found = [np.zeros(0, _HASHED)]
    for block in _blocks(texts, place):
        if not (complete := block.whole(length)).any():
            continue
        at = np.flatnonzero(block.whole(gram))
        hashes = np.full(len(block.codes), _LARGEST)
        hashes[at] = block.hashes(gram, at)
        smallest = np.where(complete, _sliding(hashes, length - gram + 1, np.minimum), np.uint64(0))
        # A gram is an anchor when it is the smallest of a run that it lies in.
        reached = _sliding(smallest[::-1], length - gram + 1, np.maximum)[::-1]
        anchors = np.flatnonzero(hashes == reached)
        found.append(_records(hashes[anchors], anchors + block.place))
    return np.concatenate(found)


def _sliding(values: Keys, width: int, best: Any) -> Keys:
    """The best of each value and the `width - 1` after it (fewer at the end)."""
    reach, result = 1, values.copy()
    while 2 * reach <= width:
        result[:-reach] = best(result[:-reach], result[reach:])
        reach *= 2
    if (rest := width - reach) and rest < len(result):
        result[:-rest] = best(result[:-rest], result[rest:])
    return result


def windows_of(length: int, item: Item) -> npt.NDArray[np.void]:
    """Every run of `length` characters of a batch that holds an anchor which stands in the corpus again."""
    place, texts, again = item.place, item.texts, item.places
    found = [np.zeros(0, _HASHED)]
    for block in _blocks(texts, place):
        size = len(block.codes)
        anchors = again[slice(*np.searchsorted(again, [block.place, block.place + size]))] - block.place
        if len(anchors) == 0:
            continue
        steps = np.zeros(size + 1, np.int64)
        np.add.at(steps, np.maximum(0, anchors - (length - length // 2)), 1)
        np.add.at(steps, anchors + 1, -1)
        at = np.flatnonzero((np.cumsum(steps[:-1]) > 0) & block.whole(length))
        found.append(_records(block.hashes(length, at), at + block.place))
    return np.concatenate(found)


def ranges_of(length: int, item: Item) -> dict[int, list[tuple[int, int]]]:
    """The runs to cut of each text of a batch (row), from where repeated runs begin."""
    ends = item.place + np.cumsum([len(text) for text in item.texts], dtype=np.int64)
    found: dict[int, list[tuple[int, int]]] = {}
    for row, start, stop in united(item.places, length, ends):
        base = int(ends[row]) - len(item.texts[row])
        found.setdefault(row, []).append((start - base, stop - base))
    return found


def hashes_after(length: int, item: Item) -> npt.NDArray[np.void]:
    """`ENTRY` records of the documents of a batch that are cut, as they will be."""
    ranges = ranges_of(length, item)
    packed = [
        content_key(cut(item.texts[row], runs)) + int(item.orders[row]).to_bytes(8, "big") + bytes(16)
        for row, runs in ranges.items()
    ]
    return np.frombuffer(b"".join(packed), ENTRY).copy()


# -- groups -------------------------------------------------------------------------------------------------------


def in_groups(keys: Keys) -> npt.NDArray[np.bool_]:
    """Which keys are there more than once."""
    order = np.argsort(keys)
    same = keys[order[1:]] == keys[order[:-1]]
    several = np.zeros(len(keys), bool)
    several[order[1:][same]] = True
    several[order[:-1][same]] = True
    return several


def repeated(records: npt.NDArray[np.void], length: int) -> Places:
    """Of equal runs the places of all that do not overlap the first."""
    if len(records) == 0:
        return np.zeros(0, np.int64)
    order = np.argsort(records["hash"])
    hashes, places = records["hash"][order], records["place"][order]
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    first_of = np.repeat(np.minimum.reduceat(places, starts), np.diff(np.append(starts, len(hashes))))
    again: Places = places[places - first_of >= length]
    return again


def united(starts: Places, length: int, ends: Places) -> Iterator[tuple[int, int, int]]:
    """Overlapping runs of `length` characters as one, each within its text: (text, start, stop)."""
    if len(starts) == 0:
        return
    texts = np.searchsorted(ends, starts, "right")
    opens = np.concatenate([[True], (np.diff(starts) > length) | (np.diff(texts) > 0)])
    begins = starts[opens]
    stops = starts[np.append(np.flatnonzero(opens)[1:] - 1, len(starts) - 1)] + length
    yield from zip(texts[opens].tolist(), begins.tolist(), stops.tolist(), strict=True)


def cut(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """The text without these ranges.

    >>> cut("one two three", [(3, 7)])
    'one three'
    """
    kept, at = [], 0
    for start, stop in ranges:
        kept.append(text[at:start])
        at = stop
    return "".join([*kept, text[at:]])

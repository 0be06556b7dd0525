"""Arrays larger than memory: appended to files in buckets, with a mark up to which everything is whole.

A pass over a corpus writes what it finds to buckets by hash, so that what belongs together meets in one of them; each
bucket then fits in memory. The mark says after how many batches the files were how long: a pass that was stopped or
killed cuts them back to it and goes on from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from mojiang.core.files import atomic_write, explained_os_errors, remove_tree

if TYPE_CHECKING:
    from mojiang.core.run import Run

_MARK_SECONDS: Final = 10.0

In = TypeVar("In")
Out = TypeVar("Out")


class Spill:
    """Buckets of records below `folder`, each of its own type; `done` batches are in them already."""

    def __init__(self, folder: Path, dtypes: Sequence[npt.DTypeLike]) -> None:
        self.folder, self.dtypes, self.buckets = folder, [np.dtype(dtype) for dtype in dtypes], len(dtypes)
        self.done = 0
        self._sizes = [0] * self.buckets
        self._marked = time.monotonic()
        self._resume()

    def append(self, bucket: int, records: npt.NDArray[Any]) -> None:
        """Add records to the end of a bucket."""
        if len(records) == 0:
            return
        with explained_os_errors(f"writing to {self.folder}"), open(self.path(bucket), "ab") as file:
            file.write(records.astype(self.dtypes[bucket].base, copy=False).tobytes())
        self._sizes[bucket] += records.nbytes

    def scatter(self, buckets: npt.NDArray[Any], records: npt.NDArray[Any]) -> None:
        """Add each record to its bucket."""
        order = np.argsort(buckets, kind="stable")
        edges = np.searchsorted(buckets[order], np.arange(self.buckets + 1))
        for bucket in np.flatnonzero(np.diff(edges)).tolist():
            self.append(bucket, records[order[edges[bucket] : edges[bucket + 1]]])

    def batch_done(self, at_once: bool = False) -> None:
        """One batch more is written; now and then, or `at_once`, set the mark."""
        self.done += 1
        if at_once or time.monotonic() - self._marked >= _MARK_SECONDS:
            self.mark()

    def mark(self) -> None:
        """What is written now counts."""
        with explained_os_errors(f"writing to {self.folder}"):
            atomic_write(self.folder / "mark.json", json.dumps({"done": self.done, "sizes": self._sizes}))
        self._marked = time.monotonic()

    def read(self, bucket: int) -> npt.NDArray[Any]:
        """All records of a bucket, in the order they were added."""
        dtype = self.dtypes[bucket]
        return np.fromfile(self.path(bucket), dtype) if self._sizes[bucket] else np.zeros(0, dtype)

    def path(self, bucket: int) -> Path:
        """The file of a bucket; it is not there while the bucket is empty."""
        return self.folder / f"{bucket:05d}.bin"

    def _resume(self) -> None:
        """Cut the files back to the mark; begin anew where there is none or a file is shorter than it says."""
        state = _state(self.folder / "mark.json")
        paths = [self.path(bucket) for bucket in range(self.buckets)]
        have = [path.stat().st_size if path.exists() else 0 for path in paths]
        if state is None or len(state["sizes"]) != self.buckets or any(map(int.__lt__, have, state["sizes"])):
            remove_tree(self.folder)
            self.folder.mkdir(parents=True)
            return
        for path, size in zip(paths, state["sizes"], strict=True):
            if path.exists():
                os.truncate(path, size)
        self.done, self._sizes = state["done"], state["sizes"]


def _state(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return state


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The different values, sorted. (`np.unique` of NumPy 2.4 hashes integers: 20 times as slow on 2 million.)

    >>> distinct(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    ordered = np.sort(values, axis=None)
    return np.concatenate([ordered[:1], ordered[1:][ordered[1:] != ordered[:-1]]])


def spill_pass(
    run: Run, spill: Spill, function: Callable[[In], Out], batches: Iterable[In],
    write: Callable[[Out], None], size_of: Callable[[In], int], total: int,
) -> None:  # fmt: skip
    """Map a function over the batches a spill does not have yet, and write what it makes of each.

    `size_of` says how many of the `total` documents a batch holds.

    Raises:
        Interrupted: the user stopped the run; the same call goes on from there.
    """
    sizes: list[int] = []
    seen = 0

    def remaining() -> Iterator[In]:
        nonlocal seen
        iterator = iter(batches)
        seen = sum(map(size_of, islice(iterator, spill.done)))
        for batch in iterator:
            sizes.append(size_of(batch))
            yield batch

    for number, made in enumerate(run.engine.map(function, remaining())):
        write(made)
        seen += sizes[number]
        spill.batch_done(at_once=run.stopping)
        run.progress(seen, total, unit="documents")
        run.check_stop()
    spill.mark()

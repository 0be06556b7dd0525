"""Several corpora in one: how much of each, and how many times over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from mojiang.core.artifact import Artifact, Kind
from mojiang.core.errors import BadInput, BadUsage
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Drop
from mojiang.data._documents import SPLITS, ShardWriter, read_documents, shard_exists

if TYPE_CHECKING:
    from mojiang.core.run import Run

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
Hashes = npt.NDArray[np.uint64]


class Mix(Recipe):
    """Draw from several corpora by weight, so that each has the share of the text you want it to have.

    Shares are of bytes. Without weights they follow the sizes, flattened by `temperature`: size^(1/temperature), so
    that small corpora (a rarer language, say) get more than their size. A corpus may be read several times over, up to
    `max_epochs`; a part of an epoch is drawn by a keyed hash of the documents' ids, so it is the same in every re-run.
    Documents of all corpora are interleaved in proportion.

    When not to use: after splitting, unless `split` says which part; a mix of test texts is no training set.
    Source: Conneau et al. 2020 (temperature, XLM-R); Muennighoff et al. 2023 (up to four epochs are worth it).
    Example:
        >>> Mix(sources=("web", "books"), weights=(0.7, 0.3), bytes=10_000_000)
        Mix(sources=('web', 'books'), ...)
    """

    recipe: ClassVar[str] = "data.mix"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"
    stochastic: ClassVar[bool] = True

    sources: tuple[DatasetRef, ...]
    """The corpora."""
    weights: tuple[float, ...] | None = None
    """The share of each, in any unit (7 3 is 0.7 0.3); null for shares by size."""
    temperature: float = Field(1.0, ge=1, le=100)
    """Flattens shares by size: 1 keeps them, 100 makes them nearly equal. Has no effect on weights."""
    max_epochs: float = Field(1.0, gt=0, le=100)
    """How many times a corpus may be read at most."""
    bytes: int | None = Field(None, ge=1)
    """Size of the mix; null for the largest that has exactly these shares. Where a corpus is too small for its share,
    the others fill up."""
    split: Literal["train", "validation", "test"] | None = None
    """Which part of corpora that have been split."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Mix:
        if self.weights is not None:
            if len(self.weights) != len(self.sources):
                raise ValueError(f"{len(self.weights)} weights for {len(self.sources)} sources")
            if min(self.weights) < 0 or sum(self.weights) <= 0:
                raise ValueError("weights must not be negative, and not all zero")
        return self

    def run(self, run: Run) -> Metrics:
        """Write the mix, drops (what was not drawn) and the report."""
        if not self.sources:
            raise BadUsage("data.mix needs corpora", hint="give --sources REF REF …")
        if self.weights is not None and self.temperature != 1:
            run.warn("temperature has no effect on weights")
        artifacts = run.inputs("sources")
        drawn = [Drawn.of(artifact, number, self.split, run.seed) for number, artifact in enumerate(artifacts)]
        sizes = np.array([source.size for source in drawn], np.float64)
        shares = self._shares(sizes)
        wanted = targets(sizes, shares, self.max_epochs, self.bytes)
        for source, target in zip(drawn, wanted.tolist(), strict=True):
            source.draw(target)
        with Accounting(run.out, "data.mix") as books, ShardWriter(run.out) as writer:
            total = sum(source.documents_out for source in drawn)
            for number, row in enumerate(interleaved(drawn, books)):
                writer.add(row)
                if number % 1000 == 0:
                    run.progress(number, total, unit="documents")
                    run.check_stop()
            books.refuse_nothing("raise --bytes: not one document is as small as its share")
            if self.bytes is not None and wanted.sum() < self.bytes - 0.5:
                said = f"the corpora give {wanted.sum():,.0f} of {self.bytes:,} bytes at {self.max_epochs:g} epochs"
                books.find("warning", said)
            rows = [source.row(shares[n], writer.bytes) for n, source in enumerate(drawn)]
            columns = ["source", "share wanted", "share", "epochs", "documents in", "bytes in", "documents", "bytes"]
            table = Table(title="mix", columns=columns, rows=rows)
            verdict = ", ".join(f"{row[0]} {float(row[2] or 0):.1%}" for row in rows)
            metrics = books.finish(f"{writer.rows:,} documents, {writer.bytes:,} bytes: {verdict}", [table])
            return {**metrics, "documents_out": writer.rows, "bytes_out": writer.bytes}

    def _shares(self, sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        weights = np.array(self.weights) if self.weights is not None else sizes ** (1 / self.temperature)
        weights = np.where(sizes > 0, weights, 0.0)
        if weights.sum() == 0:
            raise BadInput("the corpora that have a weight hold no text", hint="look at their reports")
        shares: npt.NDArray[np.float64] = weights / weights.sum()
        return shares


def targets(
    sizes: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], max_epochs: float, total: int | None
) -> npt.NDArray[np.float64]:
    """Bytes to take of each corpus.

    >>> targets(np.array([100.0, 900.0]), np.array([0.5, 0.5]), 2, None).tolist()
    [200.0, 200.0]
    >>> targets(np.array([100.0, 900.0]), np.array([0.5, 0.5]), 2, 1000).tolist()
    [200.0, 800.0]
    """
    limits = sizes * max_epochs
    some = shares > 0
    if total is None:
        largest = float((limits[some] / shares[some]).min())
        return shares * largest
    wanted = np.zeros(len(sizes))
    while True:
        open_ = some & (wanted < limits)
        left = total - wanted.sum()
        if left <= 1e-6 or not open_.any():
            return wanted
        added = np.where(open_, shares, 0.0) * left / shares[open_].sum()
        wanted = np.minimum(wanted + added, limits)


@dataclass
class Drawn:
    """One corpus: how many whole epochs of it, and which documents once more."""

    name: str
    path: Path
    split: str | None
    keys: Hashes
    """A keyed hash of each document."""
    sizes: npt.NDArray[np.int64]
    whole: int = 0
    limit: int = 0
    """Documents with a smaller key are read once more."""
    documents_out: int = 0
    bytes_out: int = 0

    @classmethod
    def of(cls, artifact: Artifact, number: int, split: str | None, seed: int) -> Drawn:
        """The corpus of an artifact, not drawn yet."""
        is_split = not shard_exists(artifact.path) and any((artifact.path / name).is_dir() for name in SPLITS)
        if is_split and split is None:
            raise BadInput(f"{artifact.ref} has been split", hint="give --split train, or mix before splitting")
        keys, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        part = split if is_split else None
        for batch in read_documents(artifact.path, part, columns=["id", "bytes"]):
            ids = np.array([int(id[:16], 16) for id in batch.column("id").to_pylist()], np.uint64)
            keys.append(_keyed(ids, seed, number))
            sizes.append(batch.column("bytes").to_numpy())
        return cls(artifact.ref, artifact.path, part, np.concatenate(keys), np.concatenate(sizes))

    @property
    def size(self) -> int:
        """Bytes of text."""
        return int(self.sizes.sum())

    def draw(self, target: float) -> None:
        """Take about `target` bytes: whole epochs, then documents by key until the next would be too much by half."""
        self.whole = int(target // self.size) if self.size else 0
        rest = target - self.whole * self.size
        order = np.argsort(self.keys, kind="stable")
        middles = np.cumsum(self.sizes[order]) - self.sizes[order] / 2
        self.limit = int(np.searchsorted(middles, rest))
        self._again = np.zeros(len(self.keys), bool)
        self._again[order[: self.limit]] = True
        self.documents_out = self.whole * len(self.keys) + self.limit
        self.bytes_out = self.whole * self.size + int(self.sizes[self._again].sum())

    def rows(self, books: Accounting) -> Iterator[dict[str, Any]]:
        """The documents, epoch by epoch; each is accounted for once."""
        for epoch in range(self.whole + 1):
            last = epoch == self.whole
            if last and self.limit == 0 and epoch > 0:
                return
            first = 0
            for batch in read_documents(self.path, self.split):
                again = self._again[first : first + batch.num_rows] if last else np.ones(batch.num_rows, bool)
                first += batch.num_rows
                if epoch == 0:
                    books.saw(int(batch.column("bytes").to_numpy().sum()), batch.num_rows)
                    for row in batch.select(["id", "path", "bytes"]).filter(pa.array(~again)).to_pylist():
                        books.drop(Drop(row["id"], row["path"], "not-drawn", self.name, row["bytes"]))
                    books.keep_batch(batch.filter(pa.array(again)))
                yield from batch.filter(pa.array(again)).to_pylist()

    def row(self, share: float, total: int) -> list[str | int | float | None]:
        """Its line in the report."""
        got, epochs = self.bytes_out / max(1, total), self.bytes_out / max(1, self.size)
        return [self.name, round(float(share), 4), round(got, 4), round(epochs, 4), len(self.keys), self.size,
                self.documents_out, self.bytes_out]  # fmt: skip


def interleaved(drawn: list[Drawn], books: Accounting) -> Iterator[dict[str, Any]]:
    """The documents of all corpora, always from the one that is furthest behind its share."""
    streams = [source.rows(books) for source in drawn]
    written = [0.0] * len(drawn)
    waiting = {number: row for number, stream in enumerate(streams) if (row := next(stream, None)) is not None}
    while waiting:
        number = min(waiting, key=lambda n: (written[n], n))
        row = waiting[number]
        yield row
        written[number] += row["bytes"] / max(1, drawn[number].bytes_out)
        following = next(streams[number], None)
        if following is None:
            del waiting[number]
        else:
            waiting[number] = following


def _keyed(ids: Hashes, seed: int, number: int) -> Hashes:
    """A hash of each id that depends on seed and corpus (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        x = ids + np.uint64(seed % 2**32 * 2**20 + number + 1) * _MIX
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keyed: Hashes = x ^ (x >> np.uint64(31))
    return keyed

"""Divide a corpus into train, validation and test by the hash of each document's content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting
from mojiang.data._documents import SPLITS, ShardWriter, count_bytes, count_documents, read_documents
from mojiang.data._mapping import map_batches

if TYPE_CHECKING:
    from mojiang.core.run import Run

_RANGE: Final = 2**64


class Split(Recipe):
    """Assign each document to train, validation or test by a hash of its text.

    The same text always lands in the same split: in a re-run, in another order, and when the corpus grows. Copies
    cannot cross splits. A small corpus still gets at least one document in each.

    When not to use: when documents of one author or site must stay together; then split by hand.
    Source: hashing to assign examples, as in TensorFlow Datasets and C4.
    Example:
        >>> Split(data="dedup", test=0.1)
        Split(data='dedup', ...)
    """

    recipe: ClassVar[str] = "data.split"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to split, deduplicated."""
    validation: float = Field(0.05, gt=0, lt=0.5)
    """Share of documents to tune on."""
    test: float = Field(0.05, gt=0, lt=0.5)
    """Share of documents to measure on, once."""
    min_documents: int = Field(3, ge=3)
    """A corpus with fewer different documents is refused."""
    min_bytes: int = Field(10_000, ge=1)
    """A corpus with less text is refused: nothing could be learned from it."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Split:
        if self.validation + self.test > 0.5:
            raise ValueError(f"validation + test is {self.validation + self.test:g}; at most half may be held out")
        return self

    def run(self, run: Run) -> Metrics:
        """Write train/, validation/ and test/, and the report."""
        source = run.input("data").path
        hashes = _hashes(run, source)
        self._refuse_small(source, len(np.unique(hashes)))
        edges = choose_edges(hashes, self.validation, self.test)
        writers = [ShardWriter(run.out / name) for name in SPLITS]
        done = 0
        with Accounting(run.out, "data.split") as books:
            for batch in read_documents(source):
                where = assign(hashes[done : done + batch.num_rows], edges)
                books.saw(sum(batch.column("bytes").to_pylist()), batch.num_rows)
                books.keep_batch(batch)
                for number, writer in enumerate(writers):
                    writer.add_batch(batch.filter(pa.array(where == number)))
                done += batch.num_rows
                run.check_stop()
            for writer in writers:
                writer.close()
            rows: list[list[str | int | float | None]]
            rows = [[n, w.rows, w.bytes] for n, w in zip(SPLITS, writers, strict=True)]
            sizes = {f"{n}_{what}": int(row[i] or 0) for n, row in zip(SPLITS, rows, strict=True)
                     for i, what in ((1, "documents"), (2, "bytes"))}  # fmt: skip
            table = Table(title="splits", columns=["split", "documents", "bytes"], rows=rows)
            verdict = ", ".join(f"{row[0]} {row[1]:,} documents ({row[2]:,} bytes)" for row in rows)
            return {**books.finish(verdict, [table]), **sizes}

    def _refuse_small(self, source: Path, different: int) -> None:
        documents, size = count_documents(source), count_bytes(source)
        missing = []
        if different < self.min_documents:
            missing.append(f"{self.min_documents - different} more different documents")
        if size < self.min_bytes:
            missing.append(f"{self.min_bytes - size:,} more bytes of text")
        if missing:
            raise BadInput(
                f"the corpus is too small to train on: it has {different} different documents of {documents} and "
                f"{size:,} bytes, and needs {' and '.join(missing)}",
                hint="add text; a long file can also be cut into more documents by data.load --max-document-bytes",
            )


def content_hash(text: str) -> int:
    """A uniform 64-bit number that depends on the text alone.

    >>> content_hash("模匠") == content_hash("模" + "匠")
    True
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def hash_batch(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """`content_hash` of each text of a batch."""
    return np.array([content_hash(text.as_py()) for text in batch.column("text")], np.uint64)


def _hashes(run: Run, source: Path) -> npt.NDArray[np.uint64]:
    """Hashes in the order of the documents: eight bytes each, all that has to be in memory."""
    total, done, parts = count_documents(source), 0, [np.zeros(0, np.uint64)]
    for part in map_batches(run, hash_batch, source, columns=["text"]):
        parts.append(part)
        done += len(part)
        run.progress(done, total, unit="documents")
        run.check_stop()
    return np.concatenate(parts)


def choose_edges(hashes: npt.NDArray[np.uint64], validation: float, test: float) -> tuple[int, int]:
    """The limits below which a hash means test, and above that validation; the rest is train.

    They are the shares themselves, moved only as far as it takes to leave no split of at least three different
    documents empty: what one split needs comes from its neighbour on the number line.
    """
    ordered = np.unique(hashes)
    test_edge, validation_edge = int(test * _RANGE), int((test + validation) * _RANGE)
    if len(ordered) < len(SPLITS):
        return test_edge, validation_edge
    smallest, second, last = int(ordered[0]), int(ordered[1]), int(ordered[-1])
    test_edge = max(test_edge, smallest + 1)
    if test_edge > second and int(ordered[-2]) < test_edge:
        test_edge = int(ordered[-2])  # nearly all hashes are tiny: leave two for the others
    after = int(ordered[np.searchsorted(ordered, np.uint64(test_edge))])
    validation_edge = min(max(validation_edge, after + 1), last)
    return test_edge, validation_edge


def assign(hashes: npt.NDArray[np.uint64], edges: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Index into SPLITS of each hash."""
    test_edge, validation_edge = (np.uint64(edge) for edge in edges)
    return np.where(hashes < test_edge, 2, np.where(hashes < validation_edge, 1, 0))

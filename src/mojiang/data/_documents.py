"""The one shape every corpus has: Parquet shards of documents, written and read in bounded memory.

A dataset is a folder of `documents-00000.parquet`, `documents-00001.parquet`, …; a dataset that has been split keeps
one such folder in each of `train/`, `validation/` and `test/`. Parquet because every tool reads it, and because a
reader that wants only `bytes` and `language` never touches the text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mojiang.core.errors import BadInput
from mojiang.core.files import explained_os_errors

SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # see document_id
        pa.field("path", pa.string(), nullable=False),  # relative to the source; `#3` marks the part of a cut file
        pa.field("source", pa.string(), nullable=False),  # what was loaded, e.g. "python:stdlib 3.11.7"
        pa.field("licence", pa.string(), nullable=False),  # SPDX expression, or "unknown"
        pa.field("language", pa.string(), nullable=False),  # "zh", "en", … for prose; "python", … for source code
        pa.field("format", pa.string(), nullable=False),  # "txt", "markdown", "rst", "html", "code", "jsonl", …
        pa.field("bytes", pa.int64(), nullable=False),  # UTF-8 length of text
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
ORIGINS: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),  # an address, a Message-ID, or the file
        pa.field("licence", pa.string(), nullable=False),
        pa.field("time", pa.string(), nullable=False),  # ISO 8601: written, sent or fetched; "" when nobody says
        pa.field("sha256", pa.string(), nullable=False),  # of the document's text in UTF-8
        pa.field("content_sha256", pa.string(), nullable=False),  # of the bytes it was read from
    ]
)
"""Where each document of a load or crawl comes from, by its id, which later steps keep: `origins-00000.parquet`, …"""
SPLITS: Final = ("train", "validation", "test")

ROW_GROUP_BYTES: Final = 4 * 2**20  # what one batch, and so one worker, holds at a time
ROW_GROUP_ROWS: Final = 8192
SHARD_BYTES: Final = 256 * 2**20


def document_id(source: str, path: str, part: int | str) -> str:
    """Stable name of a document: 32 hex digits that depend on where it came from, not on what it says.

    `part` says which record of the file ("17" is the 17th line of a .jsonl), and is 0 for a whole file.

    >>> document_id("python:stdlib 3.11.7", "ast.py", 0)[:8]
    '17684f01'
    """
    return hashlib.sha256("\0".join((source, path, str(part))).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ShardWriter:
    """Append rows to `PREFIX-00000.parquet`, … in `folder`, holding at most one row group in memory.

    A row's weight is what `size_column` says (bytes); without one, rows are counted only. No file is made when no row
    was written, so the caller decides what an empty result means. Use it as a context manager.

    Raises:
        Unavailable: the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str = "documents",
        schema: pa.Schema = SCHEMA,
        size_column: str | None = "bytes",
        row_group_bytes: int = ROW_GROUP_BYTES,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder, self.prefix, self.schema, self.size_column = folder, prefix, schema, size_column
        self.row_group_bytes, self.shard_bytes = row_group_bytes, shard_bytes
        self.rows = self.bytes = 0
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}  # rows that came one by one
        self._batches: list[pa.RecordBatch] = []  # and before them, rows that came in batches
        self._waiting = self._buffered = self._in_shard = self._shards = 0
        self._writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row, a value for each column of the schema."""
        for name, values in self._columns.items():
            values.append(row[name])
        self._took(1, int(row[self.size_column]) if self.size_column else 0)

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Append the rows of an Arrow batch whose columns are the schema's, in any order.

        They stay Arrow: making Python objects of them and Arrow of those again took a tenth of the time of a step.
        """
        self._seal()
        batch = pa.RecordBatch.from_arrays([batch.column(name) for name in self.schema.names], schema=self.schema)
        sizes = batch.column(self.size_column).to_numpy() if self.size_column else np.zeros(batch.num_rows, np.int64)
        first = 0
        while first < batch.num_rows:
            # As far as the row group has room: the groups are those that row after row would give.
            reached = self._buffered + np.cumsum(sizes[first : first + ROW_GROUP_ROWS - self._waiting])
            count = min(len(reached), int(np.searchsorted(reached, self.row_group_bytes)) + 1)
            self._batches.append(batch.slice(first, count))
            self._took(count, int(sizes[first : first + count].sum()))
            first += count

    def _took(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size
        self._waiting += rows
        self._buffered += size
        if self._buffered >= self.row_group_bytes or self._waiting >= ROW_GROUP_ROWS:
            self._flush()

    def _seal(self) -> None:
        """Make a batch of the rows that came one by one."""
        if self._columns[self.schema.names[0]]:
            self._batches.append(pa.RecordBatch.from_pydict(self._columns, schema=self.schema))
            self._columns = {name: [] for name in self.schema.names}

    def _flush(self) -> None:
        self._seal()
        if not self._batches:
            return
        batch = self._batches[0] if len(self._batches) == 1 else pa.concat_batches(self._batches)
        path = self.folder / f"{self.prefix}-{self._shards:05d}.parquet"
        with explained_os_errors(f"writing {path}"):
            if self._writer is None:
                self._writer = pq.ParquetWriter(path, self.schema, compression="zstd")
            self._writer.write_batch(batch)
        self._in_shard += self._buffered
        self._waiting = self._buffered = 0
        self._batches = []
        if self._in_shard >= self.shard_bytes:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with explained_os_errors(f"writing {self.folder}"):
                writer.close()
            self._shards += 1
            self._in_shard = 0

    def elsewhere(self, folder: Path) -> ShardWriter:
        """A writer of the same rows to another folder."""
        return ShardWriter(folder, self.prefix, self.schema, self.size_column, self.row_group_bytes, self.shard_bytes)

    def adopt(self, folder: Path) -> None:
        """Make the shards of another writer of the same rows the next ones here; the files are shared, not moved."""
        self._flush()
        self._close_shard()
        for shard in sorted(folder.glob(f"{self.prefix}-*.parquet")):
            with explained_os_errors(f"writing {self.folder}"):
                os.link(shard, self.folder / f"{self.prefix}-{self._shards:05d}.parquet")
            self._shards += 1
            self.rows += pq.ParquetFile(shard).metadata.num_rows

    def close(self) -> None:
        """Write what is still buffered and finish the last shard."""
        self._flush()
        self._close_shard()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._writer is not None:
            # The artifact will be thrown away; a second failure while closing must not hide the first.
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OSError:
                return


def shard_paths(path: Path, split: str | None = None, prefix: str = "documents") -> list[Path]:
    """The shards of a dataset, in order. Without `split`, those of every split of a dataset that has been split.

    Raises:
        BadInput: there is no such split, or no shard at all.
    """
    if split is not None and split not in SPLITS:
        raise BadInput(f"there is no split {split!r}", hint="use one of " + ", ".join(SPLITS))
    folders = [path / split] if split is not None else [path, *(path / name for name in SPLITS)]
    found = [shard for folder in folders for shard in sorted(folder.glob(f"{prefix}-*.parquet"))]
    if not found:
        where = f"{path} has no {split} split" if split else f"{path} holds no {prefix}"
        hint = "run data.split on it first" if split and shard_exists(path, prefix) else "is this a dataset?"
        held = {p.name.rpartition("-")[0] for p in path.glob("t*/*-00000.parquet")} - {prefix, "drops", "origins"}
        if held:
            where = f"{path} holds {' and '.join(sorted(held))}, not {prefix}"
            hint = "data.pii and data.normalize take examples too" if prefix == "documents" else "give another dataset"
        raise BadInput(where, hint=hint)
    return found


def shard_exists(path: Path, prefix: str = "documents") -> bool:
    """Whether `path` directly holds shards, that is, whether it has not been split."""
    return any(path.glob(f"{prefix}-*.parquet"))


@dataclass(frozen=True)
class RowGroup:
    """A row group of a shard by its place: what a worker is given, and reads for itself."""

    shard: Path
    number: int
    rows: int
    bytes: int
    columns: tuple[str, ...] | None = None

    def read(self) -> pa.RecordBatch:
        """Its rows.

        Raises:
            BadInput: the shard is broken or gone.
        """
        with _explained(self.shard), pq.ParquetFile(self.shard, pre_buffer=False) as file:
            return _batch(file, self.number, self.columns)


def row_groups(
    path: Path, split: str | None = None, columns: Sequence[str] | None = None, prefix: str = "documents"
) -> Iterator[RowGroup]:
    """Where the batches of `read_documents` are, in its order; with another `prefix`, those of examples."""
    for shard in shard_paths(path, split, prefix):
        with _explained(shard), pq.ParquetFile(shard, pre_buffer=False) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        wanted = tuple(columns) if columns else None
        yield from (RowGroup(shard, n, group.num_rows, group.total_byte_size, wanted) for n, group in enumerate(groups))


@dataclass(frozen=True)
class Rows:
    """Some rows of a row group, by their number in it."""

    group: RowGroup
    chosen: npt.NDArray[np.int64]

    def read(self) -> pa.RecordBatch:
        """Those rows. Raises what reading the row group raises."""
        batch = self.group.read()
        return batch if len(self.chosen) == batch.num_rows else batch.take(pa.array(self.chosen))


def read_shards(shards: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Row groups one after another as record batches; one row group is in memory at a time."""
    for shard in shards:
        with _explained(shard), pq.ParquetFile(shard, pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                yield _batch(file, number, columns)


def _batch(file: pq.ParquetFile, number: int, columns: Sequence[str] | None) -> pa.RecordBatch:
    table = file.read_row_group(number, columns=columns, use_threads=False).combine_chunks()
    return (table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)])[0]


@contextmanager
def _explained(shard: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise BadInput(f"{shard} cannot be read: {error}", hint="make the dataset again") from error


def read_documents(
    path: Path, split: str | None = None, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream the documents of a dataset, all columns or the named ones, in the order they were written.

    Args:
        path: the folder of a dataset artifact.
        split: "train", "validation" or "test" of a split dataset; None reads everything.
        columns: names from SCHEMA; reading without "text" is cheap.

    Raises:
        BadInput: no documents there, no such split, or a broken file.
    """
    return read_shards(shard_paths(path, split), columns)


def without(
    path: Path, gone: npt.NDArray[np.int64], columns: list[str] | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], Rows]]:
    """The rows of each row group that are not `gone` (sorted orders), after their orders in the corpus."""
    first = 0
    for group in row_groups(path, columns=columns):
        low, high = np.searchsorted(gone, [first, first + group.rows])
        keep = np.ones(group.rows, bool)
        keep[gone[low:high] - first] = False
        chosen = np.flatnonzero(keep)
        yield first + chosen, Rows(group, chosen)
        first += group.rows


def iter_texts(path: Path, split: str | None = None) -> Iterator[str]:
    """The texts alone, one `str` at a time."""
    for batch in read_documents(path, split, columns=["text"]):
        for value in batch.column("text"):
            yield value.as_py()


def count_documents(path: Path, split: str | None = None) -> int:
    """Number of documents, from the Parquet footers alone."""
    return sum(pq.ParquetFile(shard).metadata.num_rows for shard in shard_paths(path, split))


def count_bytes(path: Path, split: str | None = None) -> int:
    """UTF-8 bytes of text in the dataset or one of its splits."""
    return sum(sum(batch.column("bytes").to_pylist()) for batch in read_documents(path, split, columns=["bytes"]))

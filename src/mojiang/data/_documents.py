"""The one shape every corpus has: Parquet shards of documents, written and read in bounded memory.

A dataset is a folder of `documents-00000.parquet`, `documents-00001.parquet`, …; a dataset that has been split keeps
one such folder in each of `train/`, `validation/` and `test/`. Parquet because every tool reads it, and because a
reader that wants only `bytes` and `language` never touches the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

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
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._buffered = self._in_shard = self._shards = 0
        self._writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row, a value for each column of the schema."""
        for name, values in self._columns.items():
            values.append(row[name])
        size = int(row[self.size_column]) if self.size_column else 0
        self.rows += 1
        self.bytes += size
        self._buffered += size
        if self._buffered >= self.row_group_bytes or len(self._columns[self.schema.names[0]]) >= ROW_GROUP_ROWS:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Append the rows of an Arrow batch whose columns are the schema's, in any order."""
        for row in batch.select(self.schema.names).to_pylist():
            self.add(row)

    def _flush(self) -> None:
        if not self._columns[self.schema.names[0]]:
            return
        batch = pa.RecordBatch.from_pydict(self._columns, schema=self.schema)
        path = self.folder / f"{self.prefix}-{self._shards:05d}.parquet"
        with explained_os_errors(f"writing {path}"):
            if self._writer is None:
                self._writer = pq.ParquetWriter(path, self.schema, compression="zstd")
            self._writer.write_batch(batch)
        self._in_shard += self._buffered
        self._buffered = 0
        self._columns = {name: [] for name in self.schema.names}
        if self._in_shard >= self.shard_bytes:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with explained_os_errors(f"writing {self.folder}"):
                writer.close()
            self._shards += 1
            self._in_shard = 0

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
        raise BadInput(where, hint=hint)
    return found


def shard_exists(path: Path, prefix: str = "documents") -> bool:
    """Whether `path` directly holds shards, that is, whether it has not been split."""
    return any(path.glob(f"{prefix}-*.parquet"))


def read_shards(shards: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Row groups one after another as record batches; one row group is in memory at a time."""
    for shard in shards:
        try:
            with pq.ParquetFile(shard, pre_buffer=False) as file:
                for group in range(file.num_row_groups):
                    yield from file.read_row_group(group, columns=columns, use_threads=False).to_batches()
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

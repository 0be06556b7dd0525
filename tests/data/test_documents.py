"""Shards: what is written is read back, in order, whole, in bounded pieces; a full disk says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mojiang.core.errors import BadInput, Unavailable
from mojiang.data import _documents
from mojiang.data._documents import (
    SCHEMA,
    ShardWriter,
    count_bytes,
    count_documents,
    document_id,
    iter_texts,
    read_documents,
)


def row(number: int, text: str) -> dict[str, Any]:
    path = f"{number}.txt"
    return {"id": document_id("s", path, 0), "path": path, "source": "s", "licence": "MIT", "language": "en",
            "format": "txt", "bytes": len(text.encode()), "text": text}  # fmt: skip


def test_rows_come_back_in_order_over_many_shards(tmp_path: Path) -> None:
    written = [row(i, f"text {i} 你好" * (i % 7 + 1)) for i in range(500)]
    with ShardWriter(tmp_path, row_group_bytes=1000, shard_bytes=5000) as writer:
        for item in written:
            writer.add(item)
    assert len(list(tmp_path.glob("documents-*.parquet"))) > 3
    assert [r for batch in read_documents(tmp_path) for r in batch.to_pylist()] == written
    assert (count_documents(tmp_path), count_bytes(tmp_path)) == (500, sum(item["bytes"] for item in written))
    assert list(iter_texts(tmp_path)) == [item["text"] for item in written]
    # Any other Parquet reader sees the same table.
    assert pq.read_table(tmp_path).schema.names == SCHEMA.names


def test_row_groups_stay_small(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, row_group_bytes=10_000) as writer:
        for i in range(100):
            writer.add(row(i, "x" * 1000))
    assert max(batch.num_rows for batch in read_documents(tmp_path)) <= 10


def test_ids_depend_on_source_path_and_part() -> None:
    ids = {document_id(s, p, n) for s in ("a", "b") for p in ("x", "y") for n in (0, "1", "1.2")}
    assert len(ids) == 12
    assert all(len(id) == 32 and int(id, 16) >= 0 for id in ids)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_full_disk_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "documents-00000.parquet").symlink_to("/dev/full")
    writer = ShardWriter(tmp_path)
    for i in range(3):
        writer.add(row(i, os.urandom(2**19).hex()))
    with pytest.raises(Unavailable, match="disk is full"):
        writer.close()


def test_missing_and_broken_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no documents"):
        list(read_documents(tmp_path))
    with ShardWriter(tmp_path) as writer:
        writer.add(row(1, "hello"))
    with pytest.raises(BadInput, match="no test split"):
        list(read_documents(tmp_path, "test"))
    with pytest.raises(BadInput, match="no split 'tset'"):
        list(read_documents(tmp_path, "tset"))
    (tmp_path / "documents-00000.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(BadInput, match="cannot be read"):
        list(read_documents(tmp_path))


def test_an_error_inside_leaves_the_first_error_visible(tmp_path: Path) -> None:
    def write() -> None:
        with ShardWriter(tmp_path) as writer:
            writer.add(row(1, "x" * (5 * 2**20)))
            writer.add({})

    with pytest.raises(KeyError):
        write()


@pytest.mark.parametrize("sizes", [[10] * 30, [40, 1, 1, 90, 200, 3, 3, 3, 3, 3, 3, 3, 50, 50, 1], [100], []])
def test_batches_make_the_row_groups_that_rows_make(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_documents, "ROW_GROUP_ROWS", 6)
    rows = [
        {**{name: f"{name} {number}" for name in SCHEMA.names}, "bytes": size} for number, size in enumerate(sizes)
    ]  # fmt: skip
    for name, step in (("rows", 0), ("whole", 100), ("parts", 4)):
        with ShardWriter(tmp_path / name, row_group_bytes=100, shard_bytes=300) as writer:
            if step:
                for first in range(0, len(rows), step):
                    writer.add_batch(pa.RecordBatch.from_pylist(rows[first : first + step], schema=SCHEMA))
            else:
                for row in rows:
                    writer.add(row)
        assert (writer.rows, writer.bytes) == (len(rows), sum(sizes))
    layouts = []
    for name in ("rows", "whole", "parts"):
        files = [pq.ParquetFile(path) for path in sorted((tmp_path / name).glob("*.parquet"))]
        layouts.append([[f.read_row_group(n).to_pylist() for n in range(f.num_row_groups)] for f in files])
    assert layouts[0] == layouts[1] == layouts[2]
    assert [row for file in layouts[0] for group in file for row in group] == rows


def test_batches_make_the_bytes_that_rows_make(tmp_path: Path) -> None:
    """What stays Arrow all the way is the same file as what was Python objects in between."""
    rows = [row(i, f"text {i} 你好 " * (i % 50)) for i in range(3000)]
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    with ShardWriter(tmp_path / "rows", row_group_bytes=50_000) as writer:
        for item in rows:
            writer.add(item)
    with ShardWriter(tmp_path / "mixed", row_group_bytes=50_000) as writer:
        writer.add_batch(batch.slice(0, 700))
        for item in rows[700:750]:
            writer.add(item)
        shuffled = batch.slice(750).select(list(reversed(SCHEMA.names)))
        writer.add_batch(shuffled.filter(pa.array([True] * 2250)))
    names = [path.name for path in sorted((tmp_path / "rows").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "mixed").iterdir())]
    for name in names:
        assert (tmp_path / "rows" / name).read_bytes() == (tmp_path / "mixed" / name).read_bytes()

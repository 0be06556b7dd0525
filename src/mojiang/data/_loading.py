"""From files to rows: small files in groups on the engine, large ones as a stream; every file gives rows or drops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mojiang.data._accounting import Drop
from mojiang.data._documents import ORIGINS, SCHEMA, document_id
from mojiang.data._formats import Notes, Options, Piece, digest, kind_of, read_file
from mojiang.data._language import identify
from mojiang.data._licence import spdx_header
from mojiang.data._parts import Writing
from mojiang.data._sources import Found

if TYPE_CHECKING:
    from mojiang.core.run import Run

Row = dict[str, Any]

_UNIT_BYTES = 4 * 2**20  # small files read by a worker at a time
_UNIT_FILES = 256
_STREAMED_BYTES = 8 * 2**20  # a file this large is streamed instead of sent between processes


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know."""

    source: str
    licence: str
    language: str | None
    options: Options


@dataclass
class _Unit:
    """What a worker sends back for a group of small files."""

    size: int = 0
    batches: list[pa.RecordBatch] = field(default_factory=list)
    origins: list[pa.RecordBatch] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


def _plain(name: str) -> bool:
    format, _, suffix = kind_of(name)
    return not suffix and format != "parquet"


def units_of(files: list[Found]) -> Iterator[list[Found]]:
    """Small files in groups, for the workers; then each large one alone."""
    unit: list[Found] = []
    size = 0
    for file in filter(_is_small, files):
        if unit and (size + file.size > _UNIT_BYTES or len(unit) >= _UNIT_FILES):
            yield unit
            unit, size = [], 0
        unit.append(file)
        size += file.size
    if unit:
        yield unit
    yield from ([file] for file in files if not _is_small(file))


def _is_small(file: Found) -> bool:
    """Whether a worker may hold all that is in it."""
    return file.size <= _STREAMED_BYTES and _plain(file.name)


def load_part(
    run: Run, settings: Settings, units: list[list[Found]], writing: Writing, progress: tuple[int, int]
) -> Notes:
    """Read the files of a part, small ones on the engine, large ones as a stream; returns what was noticed."""
    notes = Notes()
    done, total = progress
    small = [unit for unit in units if _is_small(unit[0])]
    for unit in run.engine.map(partial(_load_unit, settings), small):
        notes += unit.notes
        for drop in unit.drops:
            _enter(drop, writing)
        for batch, origins in zip(unit.batches, unit.origins, strict=True):
            writing.books.saw(sum(batch.column("bytes").to_pylist()), batch.num_rows)
            writing.books.keep_batch(batch)
            writing.documents.add_batch(batch)
            if writing.beside is not None:
                writing.beside.add_batch(origins)
        done += unit.size
        run.progress(done, total, unit="bytes")
        run.check_stop()
    for unit_files in units[len(small) :]:
        for item in documents(unit_files[0], settings, notes):
            _enter(item, writing)
            run.check_stop()
        done += unit_files[0].size
        run.progress(done, total, unit="bytes")
    return notes


def _enter(item: tuple[Row, Row] | Drop, writing: Writing) -> None:
    """A document or a drop goes where it belongs."""
    if isinstance(item, Drop):
        writing.books.saw(item.bytes)
        writing.books.drop(item)
        return
    row, origin = item
    writing.books.saw(row["bytes"])
    writing.books.keep(row)
    writing.documents.add(row)
    if writing.beside is not None:
        writing.beside.add(origin)


def _load_unit(settings: Settings, files: list[Found]) -> _Unit:
    unit, rows, origins = _Unit(size=sum(file.size for file in files)), [], []
    for file in files:
        for item in documents(file, settings, unit.notes):
            if isinstance(item, Drop):
                unit.drops.append(item)
            else:
                rows.append(item[0])
                origins.append(item[1])
    if rows:
        unit.batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
        unit.origins.append(pa.RecordBatch.from_pylist(origins, schema=ORIGINS))
    return unit


def documents(
    file: Found, settings: Settings, notes: Notes, by_address: bool = False
) -> Iterator[tuple[Row, Row] | Drop]:
    """Rows of SCHEMA and of ORIGINS, and drops, for one file.

    With `by_address` a document is named by where it was, and not by its number in the file.
    """
    whole, some = file.content_digest(), False
    for item in read_file(file.path, file.name, file.size, settings.options, notes):
        some = True
        name, part = (item.origin, item.part.partition(".")[2]) if by_address else (file.name, item.part)
        path = f"{name}#{part}" if part else name
        id = document_id(settings.source, name, part or 0)
        if not isinstance(item, Piece):
            yield Drop(id, path, item.reason, item.detail, item.bytes)
        elif not item.text.strip():
            yield Drop(id, path, "empty", "nothing but white space", len(item.text.encode()))
        else:
            yield _row(id, path, item, file, settings), _origin(id, path, item, file, whole, settings)
    if not some:
        yield Drop(document_id(settings.source, file.name, 0), file.name, "empty", "no record in it", file.size)


def _row(id: str, path: str, item: Piece, file: Found, settings: Settings) -> Row:
    return {
        "id": id,
        "path": path,
        "source": settings.source,
        "licence": _licence(item, file, settings),
        "language": item.language or settings.language or identify(item.text),
        "format": item.format,
        "bytes": len(item.text.encode()),
        "text": item.text,
    }


def _origin(id: str, path: str, item: Piece, file: Found, whole: str, settings: Settings) -> Row:
    return {
        "id": id,
        "path": path,
        "origin": item.origin or file.origin or f"{settings.source}/{file.name}",
        "licence": _licence(item, file, settings),
        "time": item.time or file.time,
        "sha256": digest(item.text.encode()),
        "content_sha256": item.sha256 or whole,
    }


def _licence(item: Piece, file: Found, settings: Settings) -> str:
    return spdx_header(item.text) or item.licence or file.licence or settings.licence

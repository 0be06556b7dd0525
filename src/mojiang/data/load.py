"""Load text from files and folders: every document with its path, source, licence and language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Drop
from mojiang.data._documents import SCHEMA, ShardWriter, document_id
from mojiang.data._formats import Notes, Options, Piece, kind_of, read_file
from mojiang.data._language import identify
from mojiang.data._licence import UNKNOWN, spdx_header
from mojiang.data._sources import Found, Source, digest_of, open_source

if TYPE_CHECKING:
    from mojiang.core.run import Run

_UNIT_BYTES = 4 * 2**20  # small files read by a worker at a time
_UNIT_FILES = 256
_STREAMED_BYTES = 8 * 2**20  # a file this large is streamed instead of sent between processes
_DEFAULT_BYTES = 1_000_000
_FEWEST_DOCUMENTS = 50
_SMALLEST_BYTES = 8_000


class Load(Recipe):
    """Read a file, a folder or the Python standard library into a corpus of documents.

    Reads txt, md, rst, html, source code, json, jsonl, csv and parquet, plain or as .gz/.zst. Encodings are detected
    (UTF-8, UTF-16, GB 18030, declared and legacy ones). A long text is cut at blank lines or line ends. What cannot be
    read is counted with its reason, never passed over.

    When not to use: for text inside PDF or Word files, or on the web; they are counted here as binary.
    Source: SPDX licence identifiers; PEP 263; the WHATWG encoding labels.
    Example:
        >>> Load(source="python:stdlib")
        Load(source='python:stdlib', ...)
    """

    recipe: ClassVar[str] = "data.load"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    source: str = Field(min_length=1)
    """A file, a folder, or `python:stdlib` (the standard library of this Python, without tests and site-packages)."""
    licence: str | None = None
    """SPDX identifier of what says nothing itself by an SPDX header, a licence field or a LICENSE file."""
    text_fields: tuple[str, ...] = ("text",)
    """The fields of json, csv and parquet records that hold text; several are joined by a blank line."""
    max_document_bytes: int | None = Field(None, ge=64)
    """Longer texts are cut. By default 1 MB; less for prose in a few files, so that there is something to hold out."""
    language: str | None = None
    """ISO 639-1 code of all prose, instead of detecting it per document."""

    def identity(self) -> dict[str, Any]:
        """The content of the source: relative names and SHA-256 of its files; times and location do not count."""
        source = open_source(self.source)
        return {"source": source.name, "content": digest_of(source)}

    def run(self, run: Run) -> Metrics:
        """Read the source; writes documents, drops and the report."""
        source = open_source(self.source)
        options = _options(self, source)
        settings = _Settings(source.name, source.licence or self.licence or UNKNOWN, self.language, options)
        notes = Notes()
        with Accounting(run.out, f"data.load: {source.name}") as books, ShardWriter(run.out) as writer:
            for missed in source.missed:
                books.saw(missed.bytes)
                id = document_id(settings.source, missed.name, 0)
                books.drop(Drop(id, missed.name, missed.reason, missed.detail, missed.bytes))
            small = [f for f in source.files if f.size <= _STREAMED_BYTES and _plain(f.name)]
            large = [f for f in source.files if not (f.size <= _STREAMED_BYTES and _plain(f.name))]
            total, done = sum(f.size for f in source.files), 0
            for unit in run.engine.map(partial(_load_unit, settings), _units(small)):
                notes += unit.notes
                for drop in unit.drops:
                    books.saw(drop.bytes)
                    books.drop(drop)
                for batch in unit.batches:
                    books.saw(sum(batch.column("bytes").to_pylist()), batch.num_rows)
                    books.keep_batch(batch)
                    writer.add_batch(batch)
                done += unit.size
                run.progress(done, total, unit="bytes", documents=books.kept.documents)
                run.check_stop()
            for file in large:
                for item in _documents(file, settings, notes):
                    if isinstance(item, Drop):
                        books.saw(item.bytes)
                        books.drop(item)
                    else:
                        books.saw(item["bytes"])
                        books.keep(item)
                        writer.add(item)
                    run.check_stop()
                done += file.size
                run.progress(done, total, unit="bytes", documents=books.kept.documents)
            return self._finish(run, books, notes, source)

    def _finish(self, run: Run, books: Accounting, notes: Notes, source: Source) -> Metrics:
        if not books.kept.documents:
            raise _nothing(self.source, books, run.out, self.text_fields)
        books.changes += notes.counts
        for what, count in sorted(notes.counts.items()):
            books.find("warning", f"{what}: {count:,}")
        for reason, tally in sorted(books.dropped.items()):
            if reason not in ("hidden", "generated", "tests"):
                books.find("warning", f"{tally.documents:,} not loaded: {reason} ({tally.bytes:,} bytes)")
        for finding in books.findings:
            run.warn(finding.text)
        encodings = Table(title="files by encoding", columns=["encoding", "files"], rows=[])
        encodings.rows.extend([name, count] for name, count in notes.encodings.most_common())
        return {"source": source.name, **books.finish(tables=[encodings])}


@dataclass(frozen=True)
class _Settings:
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
    drops: list[Drop] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


def _options(recipe: Load, source: Source) -> Options:
    limit = recipe.max_document_bytes or _DEFAULT_BYTES
    prose = limit
    if recipe.max_document_bytes is None and len(source.files) < _FEWEST_DOCUMENTS:
        # A novel in one file still needs something to hold out; code is left whole, so that it parses.
        prose = min(limit, max(_SMALLEST_BYTES, sum(f.size for f in source.files) // _FEWEST_DOCUMENTS))
    return Options(limit, prose, recipe.text_fields)


def _plain(name: str) -> bool:
    format, _, suffix = kind_of(name)
    return not suffix and format != "parquet"


def _units(files: list[Found]) -> Iterator[list[Found]]:
    unit: list[Found] = []
    size = 0
    for file in files:
        if unit and (size + file.size > _UNIT_BYTES or len(unit) >= _UNIT_FILES):
            yield unit
            unit, size = [], 0
        unit.append(file)
        size += file.size
    if unit:
        yield unit


def _load_unit(settings: _Settings, files: list[Found]) -> _Unit:
    unit, rows = _Unit(size=sum(file.size for file in files)), []
    for file in files:
        for item in _documents(file, settings, unit.notes):
            if isinstance(item, Drop):
                unit.drops.append(item)
            else:
                rows.append(item)
    if rows:
        unit.batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    return unit


def _documents(file: Found, settings: _Settings, notes: Notes) -> Iterator[dict[str, Any] | Drop]:
    """Rows of SCHEMA, and drops, for one file."""
    for item in read_file(file.path, file.name, file.size, settings.options, notes):
        path = f"{file.name}#{item.part}" if item.part else file.name
        id = document_id(settings.source, file.name, item.part or 0)
        if not isinstance(item, Piece):
            yield Drop(id, path, item.reason, item.detail, item.bytes)
        elif not item.text.strip():
            yield Drop(id, path, "empty", "nothing but white space", len(item.text.encode()))
        else:
            yield {
                "id": id,
                "path": path,
                "source": settings.source,
                "licence": spdx_header(item.text) or item.licence or file.licence or settings.licence,
                "language": item.language or settings.language or identify(item.text),
                "format": item.format,
                "bytes": len(item.text.encode()),
                "text": item.text,
            }


def _nothing(source: str, books: Accounting, out: Path, fields: tuple[str, ...]) -> BadInput:
    """The error for a source that gave no document, saying what was in it instead."""
    reasons = {reason: tally.documents for reason, tally in books.dropped.items()}
    if not reasons:
        hint = "give a folder with text, Markdown, HTML, code, JSON, CSV or Parquet files"
        return BadInput(f"{source} has no files", hint=hint)
    counted = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
    hint = "data.load reads txt, md, rst, html, source code, json, jsonl, csv and parquet"
    if "missing-text-field" in reasons:
        hint = f"the records have no field {' or '.join(map(repr, fields))}; name theirs with --text-fields"
    elif "unreadable" in reasons:
        hint = "check the permissions of the files"
    return BadInput(f"{source} has no readable text: {counted}", hint=hint)

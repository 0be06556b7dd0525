"""Load text from files and folders: every document with its path, source, licence and language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Drop
from mojiang.data._documents import ORIGINS, ShardWriter, document_id
from mojiang.data._formats import Notes, Options
from mojiang.data._licence import UNKNOWN
from mojiang.data._loading import Settings, load_part, units_of
from mojiang.data._parts import in_parts
from mojiang.data._remote import Hub, Paging, fetch_remote, identity_of_remote
from mojiang.data._snapshot import is_remote
from mojiang.data._sources import Source, digest_of, open_source

if TYPE_CHECKING:
    from mojiang.core.run import Run

_DEFAULT_BYTES = 1_000_000
_FEWEST_DOCUMENTS = 50
_SMALLEST_BYTES = 8_000


class Load(Recipe):
    """Read a file, a folder or the Python standard library into a corpus of documents.

    Reads txt, md, rst, html, source code, json, jsonl, csv, parquet, pdf, docx, e-mail (eml, mbox, Maildir), warc and
    wet, plain or as .gz/.zst. Encodings are detected (UTF-8, UTF-16, GB 18030, declared and legacy ones). Of an HTML
    page the main text is taken, as Markdown. A long text is cut at blank lines or line ends. What cannot be read is
    counted with its reason, never passed over. Where each document comes from is in origins-*.parquet: address or
    file, licence, time and SHA-256.

    When not to use: to collect a web site (data.crawl); for labelled examples (data.examples).
    Source: SPDX licence identifiers; PEP 263; the WHATWG encoding labels; RFC 5322, RFC 4155, ISO 28500, ISO 29500.
    Example:
        >>> Load(source="python:stdlib")
        Load(source='python:stdlib', ...)
    """

    recipe: ClassVar[str] = "data.load"
    version: ClassVar[int] = 3
    makes: ClassVar[Kind] = "dataset"

    source: str = Field(min_length=1)
    """A file, a folder, `python:stdlib`, `hf:org/name[@revision]` (a data set of the Hub), an http(s) address of a file
    or a JSON API, or a database such as `sqlite:///posts.db` or `postgresql+psycopg://user:$PASSWORD@host/name`."""
    licence: str | None = None
    """SPDX identifier of what says nothing itself by an SPDX header, a licence field or a LICENSE file."""
    text_fields: tuple[str, ...] = ("text",)
    """The fields of json, csv and parquet records that hold text; several are joined by a blank line."""
    max_document_bytes: int | None = Field(None, ge=64)
    """Longer texts are cut. By default 1 MB; less for prose in a few files, so that there is something to hold out."""
    language: str | None = None
    """ISO 639-1 code of all prose, instead of detecting it per document."""
    boilerplate: Literal["remove", "keep"] = "remove"
    """What becomes of menus, footers, side bars and lists of links in HTML pages."""

    as_of: str | None = None
    """The snapshot of a web or database source that is meant, by default that of today (UTC): what was read under the
    same word is not read again."""
    query: str | None = None
    """SQL to run on a database; --text-fields names the columns that hold text."""
    key: str | None = None
    """A unique column of the query's result in whose order it is read, so that a broken read goes on where it was."""
    api: Paging = Paging()
    """How a JSON API is read."""
    hub: Hub = Hub()
    """Which part of a data set of the Hub is read."""

    def identity(self) -> dict[str, Any]:
        """The content of the source: relative names and SHA-256 of its files; times and location do not count.

        Of a data set of the Hub its commit; of what can change while nobody looks, the day.
        """
        if is_remote(self.source):
            return identity_of_remote(self.source, self.as_of)
        source = open_source(self.source)
        return {"source": source.name, "content": digest_of(source)}

    def run(self, run: Run) -> Metrics:
        """Read the source; writes documents, origins, drops and the report."""
        source = self._opened(run)
        options = _options(self, source)
        settings = Settings(source.name, source.licence or self.licence or UNKNOWN, self.language, options)
        notes = Notes()
        with (
            Accounting(run.out, f"data.load: {source.name}") as books,
            ShardWriter(run.out) as writer,
            ShardWriter(run.out, "origins", ORIGINS, None) as origins,
        ):
            for missed in source.missed:
                books.saw(missed.bytes)
                id = document_id(settings.source, missed.name, 0)
                books.drop(Drop(id, missed.name, missed.reason, missed.detail, missed.bytes))
            total, done = sum(f.size for f in source.files), 0
            for part in in_parts(run, units_of(source.files), lambda unit: sum(file.size for file in unit)):
                if not part.done:
                    with part.writing(books.title, origins) as writing:
                        writing.aside = load_part(run, settings, part.units, writing, (done, total))
                notes += part.into(books, writer, origins)
                done += sum(file.size for unit in part.units for file in unit)
            return self._finish(run, books, notes, source)

    def _opened(self, run: Run) -> Source:
        if is_remote(self.source):
            return fetch_remote(run, self.source, self.text_fields, self.query, self.key, self.api, self.hub)
        if self.query or self.key or self.as_of:
            run.warn("query, key and as_of are for databases and the web: they change nothing here")
        return open_source(self.source)

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


def _options(recipe: Load, source: Source) -> Options:
    limit = recipe.max_document_bytes or _DEFAULT_BYTES
    prose = limit
    if recipe.max_document_bytes is None and len(source.files) < _FEWEST_DOCUMENTS:
        # A novel in one file still needs something to hold out; code is left whole, so that it parses.
        prose = min(limit, max(_SMALLEST_BYTES, sum(f.size for f in source.files) // _FEWEST_DOCUMENTS))
    return Options(limit, prose, recipe.text_fields, whole_pages=recipe.boilerplate == "keep")


def _nothing(source: str, books: Accounting, out: Path, fields: tuple[str, ...]) -> BadInput:
    """The error for a source that gave no document, saying what was in it instead."""
    reasons = {reason: tally.documents for reason, tally in books.dropped.items()}
    if not reasons:
        hint = "give a folder with text, Markdown, HTML, code, JSON, CSV or Parquet files"
        return BadInput(f"{source} has no files", hint=hint)
    counted = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
    hint = "data.load reads txt, md, rst, html, source code, json, jsonl, csv, parquet, pdf, docx, e-mail and warc"
    if "missing-text-field" in reasons:
        hint = f"the records have no field {' or '.join(map(repr, fields))}; name theirs with --text-fields"
    elif "needs-extra" in reasons:
        hint = "PDF files are read with: pip install 'mojiang[documents]'"
    elif "unreadable" in reasons:
        hint = "check the permissions of the files"
    return BadInput(f"{source} has no readable text: {counted}", hint=hint)

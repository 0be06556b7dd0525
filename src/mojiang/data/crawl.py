"""Collect the pages of web sites, politely, into a corpus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import Field, field_validator

import mojiang
from mojiang.core.artifact import Artifact, Kind
from mojiang.core.config import Config
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Drop
from mojiang.data._crawling import Settings, crawl, prepare
from mojiang.data._documents import ORIGINS, SCHEMA, ShardWriter, document_id, read_shards
from mojiang.data._formats import Notes, Options
from mojiang.data._journal import Journal
from mojiang.data._licence import UNKNOWN
from mojiang.data._snapshot import now
from mojiang.data._sources import Found

if TYPE_CHECKING:
    from mojiang.core.run import Run

PAGES: Final = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("depth", pa.int64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("last_modified", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("time", pa.string(), nullable=False),
        pa.field("links", pa.string(), nullable=False),  # a JSON list
    ]
)
"""What became of each address; a later crawl reads it to ask only for what has changed."""


class Limits(Config):
    """How far a crawl goes."""

    depth: int = Field(8, ge=0)
    """Links away from a start page, or from a sitemap."""
    pages: int = Field(1000, ge=1)
    """Pages at most."""
    page_bytes: int = Field(10_000_000, ge=1000)
    """A page larger than this, also after unpacking, is left out with a reason."""
    timeout: float = Field(30, gt=0)
    """Seconds for one page."""
    retries: int = Field(2, ge=0)
    """How often a page is tried again after a failure that may pass."""


class Manners(Config):
    """How a crawl treats the hosts it visits."""

    delay: float = Field(1.0, ge=0)
    """Seconds between two requests to a host; a longer Crawl-delay in its robots.txt holds."""
    per_host: int = Field(1, ge=1, le=16)
    """Requests to one host at the same time."""
    hosts_at_once: int = Field(8, ge=1, le=256)
    """Hosts asked at the same time."""
    contact: str = ""
    """An address where you can be reached; it is sent to every host, and spares you being blocked."""


class Crawl(Recipe):
    """Follow links from start pages, and sitemaps, within some hosts, and make documents of the pages.

    robots.txt holds (RFC 9309: rules, Crawl-delay, sitemaps; a host whose robots.txt fails is left alone), and so do
    noindex, noai and nofollow. A journal says what is fetched: after `kill -9` the same command goes on and asks for
    no page again that it has. With --previous, an earlier crawl, pages are asked for by ETag and Last-Modified, and
    what has not changed is taken from it. What is not kept has a reason: robots, status, redirects, timeout, too-large,
    not-text. Needs `pip install 'mojiang[crawl]'`.

    When not to use: for a list of files or an API (data.load); where the terms of a site forbid it.
    Source: RFC 9309 (robots.txt), sitemaps.org, RFC 9110 (conditional requests), ISO 28500 (WARC); Scrapy.
    Example:
        >>> Crawl(start=("https://docs.example.org/",), limits={"pages": 500}).limits.pages
        500
    """

    recipe: ClassVar[str] = "data.crawl"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    start: tuple[str, ...] = Field(min_length=1)
    """Addresses to begin with."""
    hosts: tuple[str, ...] = ()
    """Hosts that may be visited, by default those of the start pages; `.example.org` means all below it."""
    include: str | None = None
    """Regular expression that an address must match, start pages apart."""
    exclude: str | None = None
    """Regular expression of addresses to leave out."""
    sitemaps: bool = True
    """Read the sitemaps that robots.txt names, or else /sitemap.xml."""
    limits: Limits = Limits()
    """How far to go."""
    manners: Manners = Manners()
    """How to treat the hosts."""
    previous: DatasetRef | None = None
    """An earlier crawl of the same pages."""
    as_of: str | None = None
    """The crawl that is meant, by default that of today (UTC); the same word goes on with the same crawl."""
    licence: str | None = None
    """SPDX identifier for pages that name no Creative Commons licence."""
    language: str | None = None
    """ISO 639-1 code of all pages, instead of detecting it."""
    max_document_bytes: int = Field(1_000_000, ge=64)
    """Longer pages are cut."""

    @field_validator("start")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError(f"{url!r} is no address; write https://…")
        return value

    @field_validator("include", "exclude")
    @classmethod
    def _are_expressions(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value

    def identity(self) -> dict[str, Any]:
        """The day, since pages change while nobody looks."""
        return {"as of": self.as_of or now()[:10]}

    def run(self, run: Run) -> Metrics:
        """Crawl in a process of its own, then read the archive; writes documents, origins, pages, drops, the report."""
        folder = run.scratch / "crawl"
        folder.mkdir(exist_ok=True)
        before = run.input("previous") if self.previous is not None else None
        prepare(self._settings(), folder, before)
        crawl(folder, run, self.limits.pages, patience=2 * self.limits.timeout + 10)
        journal = Journal(folder / "journal.sqlite")
        try:
            return self._documents(run, folder, journal, before)
        finally:
            journal.close()

    def _settings(self) -> Settings:
        limits, manners = self.limits, self.manners
        agent = f"mojiang/{mojiang.__version__}" + (f" (+{manners.contact})" if manners.contact else "")
        return Settings(
            start=list(self.start), hosts=list(self.hosts or sorted({urlsplit(u).hostname or "" for u in self.start})),
            max_depth=limits.depth, max_pages=limits.pages, max_page_bytes=limits.page_bytes, delay=manners.delay,
            per_host=manners.per_host, hosts_at_once=manners.hosts_at_once, timeout=limits.timeout,
            retries=limits.retries, sitemaps=self.sitemaps, include=self.include, exclude=self.exclude,
            user_agent=agent,
        )  # fmt: skip

    def _documents(self, run: Run, folder: Path, journal: Journal, before: Artifact | None) -> Metrics:
        from mojiang.data._loading import Settings as Reading
        from mojiang.data._loading import documents

        name = " ".join(sorted({urlsplit(url).netloc for url in self.start}))
        options = Options(self.max_document_bytes, self.max_document_bytes)
        settings = Reading(name, self.licence or UNKNOWN, self.language, options)
        notes, states = Notes(), journal.states()
        archive = folder / "ordered.warc.gz"
        size = journal.ordered(folder / "pages.warc.gz", archive)
        with (
            Accounting(run.out, f"data.crawl: {name}") as books,
            ShardWriter(run.out) as writer,
            ShardWriter(run.out, "origins", ORIGINS, None) as origins,
            ShardWriter(run.out, "pages", PAGES, None) as pages,
        ):
            unchanged = _addresses(journal, name, books, pages)
            found = Found(archive, "pages.warc.gz", size)
            every: Iterator[Any] = documents(found, settings, notes, by_address=True) if found.size else iter(())
            if before is not None and unchanged:
                every = chain(_kept_before(before, unchanged), every)
            for item in every:
                books.saw(item.bytes if isinstance(item, Drop) else item[0]["bytes"])
                if isinstance(item, Drop):
                    books.drop(item)
                else:
                    books.keep(item[0])
                    writer.add(item[0])
                    origins.add(item[1])
                run.check_stop()
            if not books.kept.documents:
                raise _nothing(self, books)
            _say(run, books, notes, journal, states, self.limits.pages)
            table = Table(title="addresses by state", columns=["state", "addresses"])
            table.rows.extend([state, count] for state, count in sorted(states.items()))
            return {"source": name, **{f"pages_{k}": n for k, n in states.items()}, **books.finish(tables=[table])}


def _addresses(journal: Journal, name: str, books: Accounting, pages: ShardWriter) -> set[str]:
    """Write what became of each address; returns those that have not changed."""
    unchanged = set()
    for page in journal.pages():
        pages.add(page)
        if page["state"] == "unchanged":
            unchanged.add(page["url"])
        elif page["state"] == "failed" and page["kind"] == "page":
            books.saw(page["bytes"])
            id = document_id(name, page["url"], 0)
            books.drop(Drop(id, page["url"], page["reason"], page["detail"], page["bytes"]))
    return unchanged


def _say(run: Run, books: Accounting, notes: Notes, journal: Journal, states: Counter[str], limit: int) -> None:
    """What the reader should not miss."""
    books.changes += notes.counts + journal.counts()
    if left := states["queued"]:
        books.find("warning", f"{left:,} addresses were not asked for: limits.pages is {limit:,}")
    for reason, tally in sorted(books.dropped.items()):
        books.find("warning", f"{tally.documents:,} pages not kept: {reason}")
    for finding in books.findings:
        run.warn(finding.text)


def _kept_before(before: Artifact, unchanged: set[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Documents of the earlier crawl whose pages have not changed."""
    origins = {
        row["id"]: row
        for batch in read_shards(sorted(before.path.glob("origins-*.parquet")))
        for row in batch.to_pylist()
        if row["origin"] in unchanged
    }
    for batch in read_shards(sorted(before.path.glob("documents-*.parquet"))):
        for row in batch.select(SCHEMA.names).to_pylist():
            if row["id"] in origins:
                yield row, origins[row["id"]]


def _nothing(recipe: Crawl, books: Accounting) -> BadInput:
    reasons = ", ".join(f"{tally.documents:,} {reason}" for reason, tally in sorted(books.dropped.items()))
    hint = "look at the start pages in a browser; --hosts, --include and robots.txt decide what is followed"
    return BadInput(f"nothing was found at {', '.join(recipe.start)}: {reasons or 'no page'}", hint=hint)

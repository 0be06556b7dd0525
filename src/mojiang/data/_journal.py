"""What a crawl knows: which addresses wait, which were fetched, and what became of them, in SQLite.

The body of a page goes to the archive first, then one transaction says that the page is fetched, how far the archive
then reaches, and which links it has. A kill between the two leaves a tail in the archive that nobody speaks of; it is
cut off at the next start. So what the journal calls fetched is here, and is never asked for again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

QUEUED, FETCHED, UNCHANGED, REDIRECTED, FAILED = "queued", "fetched", "unchanged", "redirected", "failed"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS pages (
  id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, host TEXT NOT NULL, kind TEXT NOT NULL, depth INTEGER NOT NULL,
  hops INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'queued', reason TEXT NOT NULL DEFAULT '',
  detail TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
  etag TEXT NOT NULL DEFAULT '', last_modified TEXT NOT NULL DEFAULT '', sha256 TEXT NOT NULL DEFAULT '',
  bytes INTEGER NOT NULL DEFAULT 0, time TEXT NOT NULL DEFAULT '', archived INTEGER NOT NULL DEFAULT 0,
  links TEXT NOT NULL DEFAULT '[]');
CREATE INDEX IF NOT EXISTS waiting ON pages (state, host, depth, id);
CREATE TABLE IF NOT EXISTS hosts (host TEXT PRIMARY KEY, robots TEXT, delay REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS before (url TEXT PRIMARY KEY, etag TEXT, last_modified TEXT, links TEXT);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Waiting:
    """An address to fetch; `kind` is "page" or "sitemap"."""

    id: int
    url: str
    host: str
    kind: str
    depth: int
    hops: int
    attempts: int


@dataclass(frozen=True)
class Outcome:
    """What became of an address that is not asked for again."""

    state: str
    reason: str = ""
    detail: str = ""
    etag: str = ""
    last_modified: str = ""
    sha256: str = ""
    bytes: int = 0
    time: str = ""
    archived: int = 0
    """Where the archive ends after it; 0 when it has no record there."""


@dataclass(frozen=True)
class Link:
    """An address that was found, for `Journal.found`."""

    url: str
    host: str
    kind: str = "page"
    depth: int = 0
    hops: int = 0


class Journal:
    """The journal of one crawl; one process at a time writes it, any may read.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.sqlite")
    >>> with journal.together(): journal.found([Link("http://a/", "http://a")])
    1
    >>> page = journal.next("http://a", 0.0, frozenset()); page.url
    'http://a/'
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_TABLES)
        rows = self._db.execute("SELECT host, count(*) FROM pages WHERE state = 'queued' GROUP BY host")
        self.queued: Counter[str] = Counter(dict(rows.fetchall()))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        queued = self.queued.copy()
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self.queued = queued
            raise
        self._db.execute("COMMIT")

    def recover(self, archive: Path) -> None:
        """Bring archive and journal together after a kill, or after a power cut that cost the archive its end."""
        size = archive.stat().st_size if archive.exists() else 0
        with self.together():
            self._db.execute("UPDATE pages SET state = 'queued', archived = 0 WHERE archived > ?", (size,))
        rows = self._db.execute("SELECT host, count(*) FROM pages WHERE state = 'queued' GROUP BY host")
        self.queued = Counter(dict(rows.fetchall()))
        end = self._db.execute("SELECT coalesce(max(archived), 0) FROM pages").fetchone()[0]
        if end < size:
            os.truncate(archive, end)

    # -- addresses ------------------------------------------------------------------------------------------------

    def found(self, links: Iterable[Link]) -> int:
        """Queue the addresses that are new; returns how many."""
        new = 0
        for link in links:
            done = self._db.execute(
                "INSERT OR IGNORE INTO pages (url, host, kind, depth, hops) VALUES (?, ?, ?, ?, ?)",
                (link.url, link.host, link.kind, link.depth, link.hops),
            )
            new += done.rowcount
            self.queued[link.host] += done.rowcount
        return new

    def next(self, host: str, now: float, active: frozenset[int] | set[int]) -> Waiting | None:
        """The next address of a host: sitemaps first, then the least deep, in the order they were found."""
        rows = self._db.execute(
            "SELECT id, url, host, kind, depth, hops, attempts FROM pages WHERE state = 'queued' AND host = ? "
            "AND not_before <= ? ORDER BY depth, id LIMIT ?",
            (host, now, len(active) + 1),
        )
        return next((Waiting(*row) for row in rows if row[0] not in active), None)

    def again(self, page: Waiting, not_before: float) -> None:
        """It failed in a way that may pass."""
        self._db.execute("UPDATE pages SET attempts = attempts + 1, not_before = ? WHERE id = ?", (not_before, page.id))

    def settle(self, page: Waiting, outcome: Outcome, links: Iterable[str] = ()) -> None:
        """It is not asked for again."""
        done = self._db.execute(
            "UPDATE pages SET state = ?, reason = ?, detail = ?, etag = ?, last_modified = ?, sha256 = ?, bytes = ?, "
            "time = ?, archived = ?, links = ? WHERE id = ? AND state = 'queued'",
            (
                outcome.state, outcome.reason, outcome.detail[:500], outcome.etag, outcome.last_modified,
                outcome.sha256, outcome.bytes, outcome.time, outcome.archived, json.dumps(list(links)), page.id,
            ),
        )  # fmt: skip
        self.queued[page.host] -= done.rowcount

    def count(self, name: str, n: int = 1) -> None:
        """Count something that is no page."""
        if n:
            self._db.execute(
                "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n", (name, n)
            )

    def counts(self) -> Counter[str]:
        """What was counted."""
        return Counter(dict(self._db.execute("SELECT name, n FROM counts").fetchall()))

    def states(self, kind: str = "page") -> Counter[str]:
        """How many addresses of a kind are in which state."""
        query = "SELECT state, count(*) FROM pages WHERE kind = ? GROUP BY state"
        return Counter(dict(self._db.execute(query, (kind,)).fetchall()))

    def pages(self) -> Iterator[dict[str, Any]]:
        """Every address with what became of it, in the order they were found."""
        cursor = self._db.execute(
            "SELECT url, kind, depth, state, reason, detail, etag, last_modified, sha256, bytes, time, links "
            "FROM pages ORDER BY id"
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def ordered(self, archive: Path, target: Path) -> int:
        """Copy the records of the archive in the order their addresses were found; returns the bytes written.

        Answers come as servers please; a corpus should not depend on that.
        """
        rows = self._db.execute(
            "SELECT coalesce(lag(archived) OVER (ORDER BY archived), 0), archived FROM pages "
            "WHERE archived > 0 ORDER BY id"
        )
        with open(target, "wb") as out:
            if archive.exists():
                with open(archive, "rb") as file:
                    for start, end in rows:
                        file.seek(start)
                        out.write(file.read(end - start))
            return out.tell()

    # -- hosts ----------------------------------------------------------------------------------------------------

    def robots(self, host: str) -> tuple[str, float] | None:
        """robots.txt of a host and seconds between two requests, or None when it has not been asked for."""
        found = self._db.execute("SELECT robots, delay FROM hosts WHERE host = ?", (host,)).fetchone()
        return None if found is None else (found[0], found[1])

    def set_robots(self, host: str, text: str, delay: float) -> None:
        """What the host wants."""
        self._db.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)", (host, text, delay))

    # -- an earlier crawl -----------------------------------------------------------------------------------------

    def remember(self, pages: Iterable[tuple[str, str, str, str]]) -> None:
        """(url, ETag, Last-Modified, links as JSON) of the pages of an earlier crawl."""
        with self.together():
            self._db.executemany("INSERT OR REPLACE INTO before VALUES (?, ?, ?, ?)", pages)

    def earlier(self, url: str) -> tuple[str, str, list[str]] | None:
        """ETag, Last-Modified and links of a page in the earlier crawl."""
        row = self._db.execute("SELECT etag, last_modified, links FROM before WHERE url = ?", (url,)).fetchone()
        return None if row is None else (row[0], row[1], json.loads(row[2]))

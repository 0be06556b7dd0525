"""Sources that are no files: which they are, what identifies them, and how they are brought here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from mojiang.core.config import Config
from mojiang.data._snapshot import Snapshot, is_web, name_of, now, refuse_passwords
from mojiang.data._sources import Source

if TYPE_CHECKING:
    from mojiang.core.run import Run


class Paging(Config):
    """How a JSON API is read: where its records are, and how it gives more than one page."""

    records: str = ""
    """Dotted path to the list of records in an answer; found by itself under the usual names."""
    next: str = ""
    """Dotted path to the next page's address, or to the cursor; found by itself under the usual names."""
    page: str = ""
    """Query parameter that counts pages, until one is empty."""
    cursor: str = ""
    """Query parameter that takes the cursor of the next page."""
    first_page: int = 1
    """The number of the first page."""
    max_pages: int | None = Field(None, ge=1)
    """Stop after this many pages."""
    per_second: float = Field(4.0, gt=0)
    """Requests a second at most; a server that asks for longer pauses (Retry-After) gets them."""
    headers: tuple[str, ...] = ()
    """Lines such as `Authorization: Bearer $TOKEN`, sent to the API's own host only; `$TOKEN` comes from the
    environment."""

    @field_validator("headers")
    @classmethod
    def _are_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not re.fullmatch(r"[\w-]+:\s*\S.*", line):
                raise ValueError(f"{line.partition(' ')[0]!r} begins no header; write 'Name: value'")
        return value


class Hub(Config):
    """Which part of a data set of the Hub is read."""

    config: str | None = None
    """Name of the configuration, where there are several."""
    split: str = "train"
    """Which split."""
    rows: int | None = Field(None, ge=1)
    """Stop after this many rows."""


def identity_of_remote(source: str, as_of: str | None) -> dict[str, Any]:
    """Of a data set of the Hub its commit; of what can change while nobody looks, the day or the word given for it."""
    refuse_passwords(source)
    if source.startswith("hf:"):
        from mojiang.data._hfdata import identity_of

        return identity_of(source)
    return {"source": name_of(source), "as of": as_of or now()[:10]}


def fetch_remote(
    run: Run, source: str, text_fields: tuple[str, ...], query: str | None, key: str | None, api: Paging, hub: Hub
) -> Source:
    """Bring a source into the scratch folder, where an interrupted run finds what it had."""
    shot, licence = Snapshot(run.scratch / "remote"), None

    def progress(done: float, total: float) -> None:
        run.progress(done, total, unit="fetched")

    if shot.chunks:
        run.log(f"going on after {len(shot.chunks):,} parts that are here")
    if source.startswith("hf:"):
        from mojiang.data._hfdata import fetch_hub

        licence = fetch_hub(source, hub, text_fields, shot, run.check_stop, progress)
    elif is_web(source):
        from mojiang.data._web import fetch_web

        fetch_web(source, api, shot, run.check_stop, progress)
    else:
        from mojiang.data._sql import fetch_sql

        fetch_sql(source, query, key, shot, run.check_stop, progress)
    return Source(name_of(source), shot.files(licence))

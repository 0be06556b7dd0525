"""The process of a crawl, seen from outside: what it is told, its start, its end, and how far it is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import mojiang
from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, Unavailable
from mojiang.core.files import atomic_write
from mojiang.data._documents import read_shards, shard_exists
from mojiang.data._journal import Journal

if TYPE_CHECKING:
    from mojiang.core.run import Run


@dataclass
class Settings:
    """What the capability asks for; see `mojiang.data.crawl.Crawl`."""

    start: list[str]
    hosts: list[str]
    max_depth: int
    max_pages: int
    max_page_bytes: int
    delay: float
    per_host: int
    hosts_at_once: int
    timeout: float
    retries: int
    sitemaps: bool
    include: str | None
    exclude: str | None
    user_agent: str
    folder: Path = field(default_factory=Path)


def prepare(given: Settings, folder: Path, before: Artifact | None) -> None:
    """Write what the process needs to know; once, so that a crawl that goes on is the same crawl.

    Raises:
        Unavailable: Scrapy is not installed.
        BadInput: the earlier dataset is no crawl.
    """
    if importlib.util.find_spec("scrapy") is None:
        raise Unavailable("scrapy is not installed", hint="pip install 'mojiang[crawl]'")
    if (folder / "settings.json").exists():
        return
    if before is not None:
        if not shard_exists(before.path, "pages"):
            raise BadInput(f"{before.ref} is no crawl", hint="give --previous a dataset that data.crawl made")
        journal = Journal(folder / "journal.sqlite")
        shards = sorted(before.path.glob("pages-*.parquet"))
        columns = ["url", "etag", "last_modified", "links", "state"]
        rows = (row for batch in read_shards(shards, columns) for row in batch.to_pylist())
        good = (r for r in rows if r["state"] in ("fetched", "unchanged") and (r["etag"] or r["last_modified"]))
        journal.remember((r["url"], r["etag"], r["last_modified"], r["links"]) for r in good)
        journal.close()
    content = {key: value for key, value in asdict(given).items() if key != "folder"}
    atomic_write(folder / "settings.json", json.dumps(content, ensure_ascii=False))


def crawl(folder: Path, run: Run, limit: int, patience: float) -> None:
    """Run the process to its end, or until the user stops it; `patience` is what it then has to come to an end.

    Raises:
        Unavailable: it died.
    """
    (folder / "stop").unlink(missing_ok=True)
    root = str(Path(mojiang.__file__).parents[1])
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-m", "mojiang.data._spider", str(folder)]
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths})
    journal = Journal(folder / "journal.sqlite")
    try:
        while process.poll() is None:
            states = journal.states()
            done = states["fetched"] + states["unchanged"]
            waiting = min(limit, done + states["queued"])
            run.progress(done, waiting, unit="pages", failed=states["failed"])
            if run.stopping:
                (folder / "stop").touch()
                process.wait(timeout=patience)
                run.check_stop()
            time.sleep(0.2)
    finally:
        journal.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
        hint = "the same command goes on from here"
        raise Unavailable(f"the crawler ended with {process.returncode}: {' '.join(last)}", hint=hint)

"""Downloads that break and APIs that page, limit and loop, on a loopback server that counts what it is asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.data.loopback import Answer, Site

from mojiang.core.errors import BadInput, BadUsage, NotFound, Unavailable
from mojiang.data import _web
from mojiang.data._remote import Paging
from mojiang.data._snapshot import Snapshot, is_remote, name_of
from mojiang.data.load import Load

Make = Callable[..., Any]
Rows = Callable[..., list[dict[str, Any]]]
FAST = {"per_second": 1000.0}


def texts_of(made: Any, rows: Rows) -> list[str]:
    return [row["text"] for row in rows(made)]


def page(items: list[Any], headers: dict[str, str] | None = None, **more: Any) -> Answer:
    body = json.dumps({"results": items, **more}).encode()
    return Answer(body, {"Content-Type": "application/json", **(headers or {})})


def item(number: int) -> dict[str, Any]:
    return {"id": number, "text": f"This is record number {number}.", "license": "CC0-1.0"}


def number_in(path: str, name: str) -> int:
    return int(path.partition(f"{name}=")[2].partition("&")[0] or 0)


def by_next_link(path: str, headers: dict[str, str], before: int) -> Answer:
    n = number_in(path, "at")
    return page([item(n), item(n + 1)], next=f"/api?at={n + 2}" if n < 8 else None)


def by_link_header(path: str, headers: dict[str, str], before: int) -> Answer:
    n = number_in(path, "at")
    link = {"Link": f'</api?at={n + 2}>; rel="next"'} if n < 8 else {}
    body = json.dumps([item(n), item(n + 1)]).encode()
    return Answer(body, {"Content-Type": "application/vnd.x+json", **link})


def by_page(path: str, headers: dict[str, str], before: int) -> Answer:
    n = number_in(path, "page") - 1
    return page([item(2 * n), item(2 * n + 1)] if n < 5 else [])


def by_cursor(path: str, headers: dict[str, str], before: int) -> Answer:
    n = number_in(path, "after")
    meta = {"next_cursor": n + 2 if n < 8 else None}
    body = json.dumps({"data": {"posts": [item(n), item(n + 1)]}, "meta": meta}).encode()
    return Answer(body, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("handler", "api"),
    [
        (by_next_link, {}),
        (by_link_header, {}),
        (by_page, {"page": "page"}),
        (by_cursor, {"cursor": "after", "records": "data.posts"}),
    ],
)
def test_every_way_of_paging_gives_all_records_once(make: Make, rows: Rows, handler: Any, api: dict[str, Any]) -> None:
    with Site(handler) as site:
        made = make(Load(source=f"{site.url}/api", api=Paging(**FAST, **api)))
        assert texts_of(made, rows) == [item(n)["text"] for n in range(10)]
        assert {row["licence"] for row in rows(made)} == {"CC0-1.0"}
        assert max(site.counts.values()) <= 2  # the first page is asked once to see what it is


def test_rate_limits_errors_and_dead_pages(make: Make, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(_web.Pace, "wait", lambda self, seconds: waits.append(seconds))

    def busy(path: str, headers: dict[str, str], before: int) -> Answer:
        if "at=4" in path and before < 3:
            wait = ["7", formatdate(time.time() + 100, usegmt=True), ""][before]
            return Answer(status=[429, 503, 500][before], headers={"Retry-After": wait} if wait else {})
        return by_next_link(path, headers, before)

    with Site(busy) as site:
        made = make(Load(source=f"{site.url}/api", api=Paging(**FAST)))
    assert len(rows(made)) == 10
    long = [seconds for seconds in waits if seconds > 0.5]
    assert long[0] == 7
    assert 90 < long[1] <= 100
    assert long[2] == 4  # the third failure of this page

    with Site(lambda *_: Answer(status=500)) as site, pytest.raises(Unavailable, match="status 500, 6 times"):
        make(Load(source=f"{site.url}/api"))
    patience = Answer(status=429, headers={"Retry-After": "86400"})
    with Site(lambda *_: patience) as site, pytest.raises(Unavailable, match="wait for 86,400 seconds"):
        make(Load(source=f"{site.url}/api"))
    with Site(lambda *_: Answer(status=404)) as site, pytest.raises(NotFound):
        make(Load(source=f"{site.url}/api"))
    with pytest.raises(Unavailable, match="does not answer"):
        make(Load(source=f"{site.url}/gone"))


def test_pages_in_a_circle_end_and_a_limit_holds(make: Make, rows: Rows) -> None:
    with Site(lambda p, h, b: page([item(number_in(p, "at"))], next=f"/api?at={(number_in(p, 'at') + 1) % 3}")) as site:
        assert len(rows(make(Load(source=f"{site.url}/api?at=0", api=Paging(**FAST))))) == 3
        assert len(rows(make(Load(source=f"{site.url}/api?at=0", api=Paging(**FAST, max_pages=2))))) == 2


def test_secrets_come_from_the_environment_and_stay_with_their_host(
    make: Make, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    def elsewhere(path: str, headers: dict[str, str], before: int) -> Answer:
        seen.append(("other", headers.get("x-key")))
        return page([item(2)])

    with Site(elsewhere) as other:

        def home(path: str, headers: dict[str, str], before: int) -> Answer:
            seen.append(("home", headers.get("x-key")))
            return page([item(1)], next=f"{other.url}/more")

        with Site(home) as site:
            recipe = Load(source=f"{site.url}/api", api=Paging(headers=("X-Key: $API_KEY",), **FAST))
            with pytest.raises(BadUsage, match="API_KEY is not set"):
                make(recipe)
            monkeypatch.setenv("API_KEY", "secret")
            made = make(recipe)
    assert seen == [("home", "secret"), ("home", "secret"), ("other", None)]
    assert "secret" not in made.manifest.model_dump_json()
    with pytest.raises(ValueError, match="write 'Name: value'"):
        Paging(headers=("no header",))
    refused = Answer(status=401)
    with Site(lambda *_: refused) as site, pytest.raises(BadInput, match="status 401") as caught:
        make(Load(source=f"{site.url}/api"))
    assert "--headers 'Authorization: Bearer $TOKEN'" in caught.value.hint
    for source in ("http://u:pw@host/x", "postgresql://u:pw@host/db"):
        with pytest.raises(BadInput, match="holds a password"):
            make(Load(source=source))
    assert name_of("https://u:$PW@host:8/a?token=x") == "https://host:8/a"


def test_wrong_answers_are_explained(make: Make) -> None:
    broken = Answer(b'{"results": [', {"Content-Type": "application/json"})
    with Site(lambda *_: broken) as site, pytest.raises(BadInput, match="broken JSON"):
        make(Load(source=f"{site.url}/api"))
    with (
        Site(lambda *_: page([], results=3)) as site,
        pytest.raises(BadInput, match="no list of records: it has results"),
    ):
        make(Load(source=f"{site.url}/api"))
    circle = Answer(status=302, headers={"Location": "/api"})
    with Site(lambda *_: circle) as site, pytest.raises(BadInput, match="redirects more than"):
        make(Load(source=f"{site.url}/api", api=Paging(**FAST)))


# -- downloads ----------------------------------------------------------------------------------------------------

BODY = "".join(f'{{"text": "line {i} of the download"}}\n' for i in range(3000)).encode()


def ranged(path: str, headers: dict[str, str], before: int, tag: str = '"v1"', cut: int | None = None) -> Answer:
    start = int(headers.get("range", "bytes=0-")[6:-1])
    if start and headers.get("if-range") == tag:
        extra = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}", "ETag": tag}
        return Answer(BODY[start:], extra, 206, cut)
    return Answer(BODY, {"ETag": tag}, 200, cut)


def test_a_download_that_breaks_goes_on_where_it_was(make: Make, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web.Connection, "pause", lambda *_: None)
    starts: list[str] = []

    def breaking(path: str, headers: dict[str, str], before: int) -> Answer:
        starts.append(headers.get("range", ""))
        return ranged(path, headers, before, cut=30_000 if before < 3 else None)

    with Site(breaking) as site:
        made = make(Load(source=f"{site.url}/files/rows.jsonl", api=Paging(**FAST)))
    assert starts == ["", "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert [row["text"] for row in rows(made)] == [f"line {i} of the download" for i in range(3000)]
    assert {row["source"] for row in rows(made)} == {f"{site.url}/files/rows.jsonl"}


def test_a_file_that_changed_meanwhile_is_fetched_anew(make: Make, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web.Connection, "pause", lambda *_: None)

    def changing(path: str, headers: dict[str, str], before: int) -> Answer:
        return ranged(path, headers, before, f'"v{min(before, 1)}"', cut=30_000 if before == 0 else None)

    with Site(changing) as site:
        assert len(rows(make(Load(source=f"{site.url}/rows.jsonl")))) == 3000


def test_a_server_that_always_breaks_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web.Connection, "pause", lambda *_: None)
    with Site(lambda *_: Answer(BODY, cut=0)) as site, pytest.raises(Unavailable, match="broke off 6 times"):
        make(Load(source=f"{site.url}/rows.jsonl", api=Paging(**FAST)))


def test_a_page_is_told_by_its_type(make: Make, rows: Rows) -> None:
    body = "<html><body><h1>标题</h1><p>这是一个网页。</p></body></html>".encode("gb18030")
    with Site(lambda *_: Answer(body, {"Content-Type": "text/html; charset=gb2312"})) as site:
        found = rows(make(Load(source=f"{site.url}/about")))
    assert [(row["path"], row["text"], row["format"]) for row in found] == [
        ("about.html", "# 标题\n\n这是一个网页。\n", "html")
    ]


KILLED = """
import sys, mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.data.load import Load
from mojiang.data._remote import Paging
recipe = Load(source=sys.argv[1], as_of="once", api=Paging(per_second=30))
made = execute(recipe, mojiang.open(sys.argv[2]), circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact
print(made.metrics["documents_kept"])
"""


def test_kill_9_and_the_same_command_goes_on_without_asking_twice(tmp_path: Path) -> None:
    def many(path: str, headers: dict[str, str], before: int) -> Answer:
        n = number_in(path, "at")
        return page([item(n)], next=f"/api?at={n + 1}" if n < 60 else None)

    with Site(many) as site:
        command = [sys.executable, "-c", KILLED, f"{site.url}/api?at=0", str(tmp_path / "w")]
        process = subprocess.Popen(command)
        while len(site.asked) < 25:
            time.sleep(0.01)
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "61", done.stderr
    again = {path: count for path, count in site.counts.items() if count > 1}
    assert (
        sum(again.values()) - len(again) <= 2
    )  # the first, asked to see what it is, and the one under way at the kill


def test_a_torn_journal_costs_one_chunk(tmp_path: Path) -> None:
    shot = Snapshot(tmp_path / "s")
    for number in range(3):
        shot.add([{"n": number}], "x", number + 1)
    journal = tmp_path / "s" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    again = Snapshot(tmp_path / "s")
    assert again.next == 2
    again.add([{"n": "new"}], "x", None)
    last = Snapshot(tmp_path / "s")
    assert (last.done, [c.name for c in last.chunks]) == (True, [f"rows-{n:06d}.jsonl" for n in (1, 2, 3)])
    assert json.loads((tmp_path / "s" / "rows-000003.jsonl").read_text()) == {"n": "new"}


def test_what_is_remote() -> None:
    assert [is_remote(s) for s in ("a/b", "C:x", "python:stdlib", "hf:a/b", "https://x", "sqlite:///a.db")] == [
        False, False, False, True, True, True,
    ]  # fmt: skip

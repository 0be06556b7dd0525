"""Crawls of a loopback site full of traps: every address has an outcome, and the server's log says who was polite."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.data.loopback import Answer, Site

from mojiang.core.errors import BadInput, Unavailable
from mojiang.core.report import Report
from mojiang.data import _crawling
from mojiang.data._journal import FETCHED, Journal, Link, Outcome
from mojiang.data.crawl import Crawl, Limits, Manners
from mojiang.data.load import Load

pytest.importorskip("scrapy")
Make = Callable[..., Any]
QUICK = Manners(delay=0, per_host=4)
HTML = {"Content-Type": "text/html; charset=utf-8"}


def html(body: str, title: str = "", head: str = "") -> Answer:
    return Answer(f"<html><head><title>{title}</title>{head}</head><body>{body}</body></html>".encode(), dict(HTML))


def linked(*paths: str, text: str = "This page says something that is worth to be read by people.") -> Answer:
    return html(f"<p>{text}</p>" + "".join(f'<a href="{path}">a link</a> ' for path in paths))


def site(pages: dict[str, Any]) -> Callable[[str, dict[str, str], int], Answer]:
    """Answers from a table; a value is an Answer or makes one of (headers, times asked before)."""

    def handler(path: str, headers: dict[str, str], before: int) -> Answer:
        found = pages.get(path, Answer(status=404))
        return found(headers, before) if callable(found) else found  # type: ignore[no-any-return]

    return handler


def pages_of(made: Any) -> dict[str, dict[str, Any]]:
    rows = [row for shard in sorted(made.path.glob("pages-*.parquet")) for row in pq.read_table(shard).to_pylist()]
    return {row["url"].partition("127.0.0.1")[2].partition("/")[2]: row for row in rows}


def dropped(made: Any) -> dict[str, int]:
    return {str(row[0]): int(row[1] or 0) for row in Report.load(made.path).table("dropped by reason").rows}


def test_links_are_followed_and_pages_become_documents(make: Make, rows: Any) -> None:
    pages = {
        "/": linked("/a", "/b#part", "/b", "mailto:x@y", "http://elsewhere.invalid/", "/picture.JPG", "javascript:x()"),
        "/a": html(
            "<nav><a href='/'>Home</a></nav><h1>标题</h1><p>这一页是用国标编码写的，声明却是错的。</p>"
            '<a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">CC</a>'
        ),
        "/b": linked("/a", "/", "c/d", text="The second page has other words in it."),
        "/c/d": linked("../..//e?b=2&a=1", "/e?a=1&b=2"),
        "/e?a=1&b=2": Answer(b"plain text of a file", {"Content-Type": "text/plain"}),
    }
    pages["/a"].body = pages["/a"].body.decode().encode("gb18030")
    with Site(site(pages)) as server:
        made = make(Crawl(start=(f"{server.url}/",), manners=QUICK, licence="CC0-1.0"))
        found = {row["path"].removeprefix(server.url): row for row in rows(made)}
        assert set(found) == {"/", "/a", "/b", "/c/d", "/e?a=1&b=2"}
        assert "这一页是用国标编码写的" in found["/a"]["text"]
        assert (found["/a"]["licence"], found["/a"]["language"], found["/a"]["format"]) == (
            "CC-BY-SA-4.0",
            "zh",
            "html",
        )
        assert (found["/b"]["licence"], found["/e?a=1&b=2"]["text"]) == ("CC0-1.0", "plain text of a file")
        assert max(server.counts.values()) == 1
        changes = dict(Report.load(made.path).table("changes").rows)
        assert (changes["links to other hosts"], changes["links to files without text"]) == (2, 1)
        origins = pq.read_table(next(made.path.glob("origins-*.parquet"))).to_pylist()
        assert {row["origin"].removeprefix(server.url) for row in origins} == set(found)
        assert all(row["time"] and len(row["sha256"]) == 64 and len(row["content_sha256"]) == 64 for row in origins)


def test_robots_txt_its_delay_and_the_tags_are_obeyed(make: Make, rows: Any) -> None:
    robots = b"User-agent: *\nDisallow: /private\nAllow: /private/but\nCrawl-delay: 0.5\nUser-agent: other\nDisallow: /"
    pages = {
        "/robots.txt": Answer(robots, {"Content-Type": "text/plain"}),
        "/": linked("/private/x", "/private/but", "/hidden", "/nofollow", "/noai"),
        "/private/but": linked(),
        "/hidden": html("<p>not to be kept</p><a href='/found'>x</a>", head='<META content="NOINDEX" name="robots">'),
        "/found": linked(text="Found through a page that is not kept itself."),
        "/nofollow": html("<p>kept, links not</p><a href='/never'>x</a>", head="<meta name=robots content=nofollow>"),
        "/noai": Answer(linked("/found").body, {**HTML, "X-Robots-Tag": "noai"}),
    }
    with Site(site(pages)) as server:
        made = make(Crawl(start=(f"{server.url}/",), manners=QUICK, sitemaps=False))
        kept = {row["path"].removeprefix(server.url) for row in rows(made)}
        assert kept == {"/", "/private/but", "/found", "/nofollow"}
        assert dropped(made) == {"robots": 1, "robots-tag": 2}
        assert not {"/private/x", "/never"} & set(server.asked)
        gaps = [b - a for a, b in zip(server.times[1:], server.times[2:], strict=False)]
        assert min(gaps) > 0.35


@pytest.mark.parametrize(("status", "kept"), [(404, True), (503, False)])
def test_a_host_whose_robots_txt_fails_is_left_alone(make: Make, status: int, kept: bool) -> None:
    pages = {"/robots.txt": Answer(status=status), "/": linked()}
    with Site(site(pages)) as server:
        recipe = Crawl(start=(f"{server.url}/",), manners=QUICK, sitemaps=False)
        if kept:
            assert make(recipe).metrics["documents_kept"] == 1
        else:
            with pytest.raises(BadInput, match="1 robots"):
                make(recipe)
            assert server.asked == ["/robots.txt"]


def test_sitemaps_also_packed_and_in_an_index(make: Make, rows: Any) -> None:
    def urlset(*paths: str) -> bytes:
        return "".join(["<urlset>", *(f"<url><loc>{server.url}{p}</loc></url>" for p in paths), "</urlset>"]).encode()

    pages: dict[str, Any] = {
        path: linked(text=f"The page at {path}.") for path in ("/", "/one", "/two", "/three?a=1&b=2")
    }
    with Site(site(pages)) as server:
        index = f"<sitemapindex><sitemap><loc>{server.url}/m.xml.gz</loc></sitemap></sitemapindex>"
        pages["/robots.txt"] = Answer(f"Sitemap: {server.url}/index.xml\n".encode())
        pages["/index.xml"] = Answer(index.encode())
        pages["/m.xml.gz"] = Answer(gzip.compress(urlset("/one", "/two", "/three?a=1&amp;b=2")))
        made = make(Crawl(start=(f"{server.url}/",), manners=QUICK))
        assert {row["path"].removeprefix(server.url) for row in rows(made)} == {"/", "/one", "/two", "/three?a=1&b=2"}


def test_limits_hold(make: Make, rows: Any) -> None:
    pages = {f"/{n}": linked(f"/{n + 1}", f"/x{n}", text=f"Page number {n} of the chain.") for n in range(30)}
    pages |= {f"/x{n}": linked(text=f"Side page number {n}.") for n in range(30)}
    with Site(site(pages)) as server:
        common = {"start": (f"{server.url}/0",), "manners": QUICK, "sitemaps": False}
        paths = {row["path"].removeprefix(server.url) for row in rows(make(Crawl(**common, limits=Limits(depth=2))))}
        assert paths == {"/0", "/1", "/x0", "/2", "/x1"}
        made = make(Crawl(**common, limits=Limits(pages=7)))
        assert made.metrics["pages_fetched"] == 7
        assert any("were not asked for" in f.text for f in Report.load(made.path).findings)
        made = make(Crawl(**common, include=r"/\d+$", exclude="/3"))
        assert {row["path"].removeprefix(server.url) for row in rows(made)} == {"/0", "/1", "/2"}


def endless(block: bytes) -> Iterator[bytes]:
    for _ in range(1024):
        yield block


def test_every_trap_ends_with_a_reason(make: Make, rows: Any) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    deep = "<div>" * 60_000 + "<p>deep text</p>" + '<a href="/good">x</a>'
    pages = {
        "/": linked("/loop1", "/self", "/chain0", "/error", "/flaky", "/slow", "/giant", "/claims", "/bomb", "/zbomb",
                    "/movie", "/gone", "/cut", "/deep", "/good", "/empty"),
        "/loop1": Answer(status=302, headers={"Location": "/loop2"}),
        "/loop2": Answer(status=302, headers={"Location": "/loop1"}),
        "/self": Answer(status=301, headers={"Location": "/self"}),
        **{f"/chain{n}": Answer(status=302, headers={"Location": f"/chain{n + 1}"}) for n in range(30)},
        "/error": Answer(status=500),
        "/flaky": lambda headers, before: linked(text="It works the second time.") if before else Answer(status=503),
        "/slow": lambda headers, before: Answer(b"late", dict(HTML), delay=6),
        "/giant": lambda headers, before: Answer(headers=dict(HTML), stream=endless(b"x" * 1_000_000)),
        "/claims": Answer(b"small", {**HTML, "Content-Length": str(10**9)}),
        "/bomb": Answer(bomb, {**HTML, "Content-Encoding": "gzip"}),
        "/zbomb": Answer(zlib.compress(bytes(50_000_000)), {**HTML, "Content-Encoding": "deflate"}),
        "/movie": lambda headers, before: Answer(headers={"Content-Type": "video/mp4"}, stream=endless(bytes(100_000))),
        "/cut": Answer(b"<p>half of", dict(HTML), cut=5),
        "/deep": Answer(deep.encode(), dict(HTML)),
        "/good": linked(text="A good page."),
        "/empty": Answer(b"", dict(HTML)),
    }  # fmt: skip
    limits = Limits(page_bytes=1_000_000, timeout=1.5, retries=1)
    with Site(site(pages)) as server:
        made = make(Crawl(start=(f"{server.url}/",), manners=QUICK, limits=limits, sitemaps=False))
        found = pages_of(made)
        outcome = {path: found[path]["reason"] or found[path]["state"] for path in found}
        assert {path: outcome[path] for path in outcome if not path.startswith("chain")} == {
            "": "fetched", "loop1": "redirected", "loop2": "redirected", "self": "redirects", "error": "server-error",
            "flaky": "fetched", "slow": "timeout", "giant": "too-large", "claims": "too-large", "bomb": "too-large",
            "zbomb": "too-large", "movie": "not-text", "gone": "status", "cut": "connection", "deep": "fetched",
            "good": "fetched", "empty": "fetched",
        }  # fmt: skip
        assert {path for path in outcome if path.startswith("chain")} == {f"chain{n}" for n in range(9)}
        assert outcome["chain8"] == "redirects"
        assert (server.counts["/error"], server.counts["/gone"], server.counts["/loop1"]) == (2, 1, 1)
        assert server.sent["/giant"] < 50_000_000
        assert server.sent["/movie"] < 20_000_000
        assert {row["path"].removeprefix(server.url) for row in rows(made)} == {"/", "/flaky", "/deep", "/good"}
        assert made.metrics["documents_in"] == made.metrics["documents_kept"] + made.metrics["documents_dropped"]
        assert dropped(made)["too-large"] == 4


@pytest.mark.parametrize("charset", ["zlib", "rot13", "undefined", "utf-7", "no such thing", "gb2312"])
def test_a_page_with_a_senseless_charset_is_asked_for_once(make: Make, rows: Any, charset: str) -> None:
    said = "这一页声明的字符集不是字符集，其实是用国标码写成的中文，应当只取一次。"
    body = f'<html><body><p>{said}</p><a href="/b">x</a></body></html>'.encode("gb18030")
    pages = {"/": Answer(body, {"Content-Type": f"text/html; charset={charset}"}), "/b": linked(text="The other page.")}
    with Site(site(pages)) as server:
        made = make(Crawl(start=(f"{server.url}/",), manners=QUICK, sitemaps=False))
        assert sorted(server.asked) == ["/", "/b", "/robots.txt"]
    texts = [row["text"] for row in rows(made)]
    assert len(texts) == 2
    assert said in texts[0]


def test_a_disk_that_is_full_ends_the_crawl(make: Make, tmp_path: Path) -> None:
    """And the page that could not be kept is not asked for again and again."""
    folder = tmp_path / "crawl"
    folder.mkdir()
    (folder / "pages.warc.gz").symlink_to("/dev/full")
    with Site(site({"/": linked("/a"), "/a": linked()})) as server:
        given = Crawl(start=(f"{server.url}/",), manners=QUICK, sitemaps=False)._settings()
        _crawling.prepare(given, folder, None)
        command = [sys.executable, "-m", "mojiang.data._spider", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert server.asked.count("/") == 1
    assert done.returncode != 0
    assert "No space left" in done.stderr.strip().splitlines()[-1]


def test_a_second_visit_asks_only_for_what_changed(make: Make, rows: Any) -> None:
    version = {"/a": 1}

    def tagged(path: str) -> Callable[[dict[str, str], int], Answer]:
        def answer(headers: dict[str, str], before: int) -> Answer:
            tag = f'"{path}{version.get(path, 1)}"'
            if headers.get("if-none-match") == tag:
                return Answer(status=304, headers={"ETag": tag})
            made = linked("/a", "/b", text=f"Version {version.get(path, 1)} of the page at {path}.")
            made.headers["ETag"] = tag
            return made

        return answer

    def dated(headers: dict[str, str], before: int) -> Answer:
        day = "Wed, 21 Oct 2015 07:28:00 GMT"
        if headers.get("if-modified-since") == day:
            return Answer(status=304)
        return Answer(linked("/c", text="A page with a date.").body, {**HTML, "Last-Modified": day})

    pages = {"/": tagged("/"), "/a": tagged("/a"), "/b": dated, "/c": linked(text="Neither tag nor date.")}
    with Site(site(pages)) as server:
        common = {"start": (f"{server.url}/",), "manners": QUICK, "sitemaps": False}
        first = make(Crawl(**common))
        version["/a"] = 2
        second = make(Crawl(**common, previous=first.ref))
        assert {path: row["state"] for path, row in pages_of(second).items()} == {
            "": "unchanged", "a": "fetched", "b": "unchanged", "c": "fetched",
        }  # fmt: skip
        texts = [{row["path"]: row["text"] for row in rows(made)} for made in (first, second)]
        assert set(texts[0]) == set(texts[1])
        assert [path for path in texts[0] if texts[0][path] != texts[1][path]] == [f"{server.url}/a"]
        third = make(Crawl(**common, previous=second.ref))
        assert sum(row["state"] == "unchanged" for row in pages_of(third).values()) == 3


COMMAND = """
import sys, json, mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.data.crawl import Crawl, Limits, Manners
recipe = Crawl(start=(sys.argv[1],), as_of="once", sitemaps=False, limits=Limits(pages=5000),
               manners=Manners(delay=0, per_host=4))
made = execute(recipe, mojiang.open(sys.argv[2]), circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact
print(json.dumps(made.metrics))
"""


def test_kill_9_and_the_crawl_goes_on_without_fetching_twice(tmp_path: Path) -> None:
    total = 300

    def tree(path: str, headers: dict[str, str], before: int) -> Answer:
        if not path[1:].isdigit():
            return Answer(status=404)
        n = int(path[1:])
        return linked(
            *(f"/{m}" for m in (3 * n + 1, 3 * n + 2, 3 * n + 3) if m < total), text=f"Page number {n}, in full."
        )

    with Site(tree) as server:
        command = [sys.executable, "-c", COMMAND, f"{server.url}/0", str(tmp_path / "w")]
        for target in (60, 150):
            process = subprocess.Popen(command, start_new_session=True)
            while len(server.asked) < target:
                time.sleep(0.01)
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)  # the recipe and the crawler
            process.wait()
            time.sleep(0.3)
        journal = Journal(next((tmp_path / "w").rglob("journal.sqlite")))
        known = {page["url"].removeprefix(server.url) for page in journal.pages() if page["state"] == FETCHED}
        journal.close()
        before = server.counts.copy()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        metrics = json.loads(done.stdout)
    assert metrics["documents_kept"] == total
    assert len(known) > 100
    assert all(server.counts[path] == before[path] for path in known)  # what the journal has is never asked for again
    twice = {path: n for path, n in server.counts.items() if n > 1 and path != "/robots.txt"}
    assert sum(twice.values()) - len(twice) <= 2 * 5  # what was under way at each kill


def test_a_crawler_that_dies_is_reported_and_one_without_a_parent_ends(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Site(site({"/": linked()})) as server:
        recipe = Crawl(start=(f"{server.url}/",), manners=QUICK)
        with monkeypatch.context() as patched:
            patched.setattr(_crawling.sys, "executable", "/bin/false")
            with pytest.raises(Unavailable, match="the crawler ended with 1"):
                make(recipe)
        assert make(recipe).metrics["documents_kept"] == 1


def test_an_archive_that_is_longer_than_the_journal_says_is_cut(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    journal = Journal(tmp_path / "j")
    with journal.together():
        journal.found([Link(f"http://h/{n}", "http://h") for n in range(3)])
    for n, end in enumerate((10, 25), 1):
        page = journal.next("http://h", 0, set())
        assert page is not None
        archive.write_bytes(bytes(end))
        with journal.together():
            journal.settle(page, Outcome(FETCHED, archived=end))
        assert journal.queued["http://h"] == 3 - n
    archive.write_bytes(bytes(33))
    journal.recover(archive)
    assert archive.stat().st_size == 25
    archive.write_bytes(bytes(17))  # a power cut took the end of the second page
    journal.recover(archive)
    assert (archive.stat().st_size, journal.queued["http://h"]) == (10, 2)
    journal.close()


def test_wrong_settings_are_explained(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Crawl(start=("example.org",))
    with pytest.raises(ValueError, match="no regular expression"):
        Crawl(start=("http://a/",), include="(")
    (tmp_path / "a.txt").write_text("some text")
    corpus = make(Load(source=str(tmp_path / "a.txt")))
    with pytest.raises(BadInput, match="is no crawl"):
        make(Crawl(start=("http://127.0.0.1:9/",), previous=corpus.ref))
    with pytest.raises(BadInput, match="nothing was found"):
        make(Crawl(start=("http://127.0.0.1:9/",), manners=QUICK, limits=Limits(retries=0)))
    monkeypatch.setattr(_crawling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="scrapy is not installed") as caught:
        make(Crawl(start=("http://127.0.0.1:9/x",)))
    assert caught.value.hint == "pip install 'mojiang[crawl]'"

"""The process that crawls: Scrapy's downloader, fed from the journal and writing to it.

Run as `python -m mojiang.data._spider FOLDER`: the reactor of Twisted can be started once in a process, and a crawl
must not take the run with it when it dies. FOLDER has settings.json; journal.sqlite and pages.warc.gz are made there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sqlite3
import sys
import time
import uuid
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from functools import wraps
from html import unescape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import scrapy
from filelock import FileLock
from protego import Protego
from scrapy import signals
from scrapy.core.scheduler import BaseScheduler
from scrapy.crawler import CrawlerProcess
from scrapy.exceptions import StopDownload
from w3lib.url import canonicalize_url

from mojiang.data._crawling import Settings
from mojiang.data._encoding import detect, named_codec
from mojiang.data._html import links_of
from mojiang.data._journal import FAILED, FETCHED, REDIRECTED, UNCHANGED, Journal, Link, Outcome, Waiting
from mojiang.data._snapshot import now

ROBOT: Final = "mojiang"
_ROBOTS_BYTES: Final = 512 * 1024
_MOST_HOPS: Final = 8
_SITEMAPS: Final = 1000  # of a host; an index of indexes ends
_LONGEST_PAUSE: Final = 600.0
_AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524))
_NO_TEXT: Final = re.compile(
    r"\.(?:jpe?g|png|gif|webp|svg|ico|bmp|tiff?|mp[34]|m4[av]|avi|mov|mkv|webm|og[gv]|wav|flac|zip|gz|bz2|xz|7z|rar|tar|"
    r"tgz|zst|exe|msi|dmg|iso|deb|rpm|apk|jar|whl|woff2?|ttf|otf|eot|css|js|mjs|map|bin|dll|so|sqlite|parquet)$",
    re.IGNORECASE,
)
_REFUSED_TYPES: Final = ("image/", "audio/", "video/", "font/", "application/zip", "application/x-tar", "text/css")
_META_ROBOTS: Final = re.compile(
    r"<meta\b(?=[^>]{0,300}\bname\s*=\s*[\"']?robots\b)[^>]{0,300}?\bcontent\s*=\s*[\"']?([^\"'>]{0,200})",
    re.IGNORECASE,
)


def canonical(url: str) -> str:
    """One spelling of an address: no fragment, sorted parameters."""
    return str(canonicalize_url(url))


def host_of(url: str) -> str:
    """Scheme and host with port, which robots.txt speaks for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def allowed_host(name: str, hosts: Iterable[str]) -> bool:
    """Whether a host is one of these; `.example.org` stands for everything below it.

    >>> allowed_host("docs.example.org", [".example.org"]), allowed_host("docs.example.org", ["example.org"])
    (True, False)
    """
    return any(name == host or (host.startswith(".") and (name + ".").endswith(host + ".")) for host in hosts)


class Frontier:
    """Which address is next, in the state of the journal and of what is under way."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.archive = settings.folder / "pages.warc.gz"
        self.journal = Journal(settings.folder / "journal.sqlite")
        self.journal.recover(self.archive)
        self.active: dict[str, set[int]] = defaultdict(set)
        self.asking: set[str] = set()  # hosts whose robots.txt is under way
        self.rules: dict[str, Protego] = {}
        self.fetched = sum(self.journal.states()[state] for state in (FETCHED, UNCHANGED))
        with self.journal.together():
            self.journal.found(self.links(settings.start, -1))

    def links(self, urls: Iterable[str], depth: int, kind: str = "page", hops: int = 0) -> list[Link]:
        """What of these addresses is to be fetched; the rest is counted."""
        out = []
        for url in urls:
            try:
                url = canonical(url)
                parts = urlsplit(url)
                host = parts.hostname or ""
            except ValueError:
                self.journal.count("links that are no address")
                continue
            if parts.scheme not in ("http", "https") or not host:
                continue
            if not allowed_host(host, self.settings.hosts):
                self.journal.count("links to other hosts")
            elif depth + 1 > self.settings.max_depth:
                self.journal.count("links deeper than max_depth")
            elif kind == "page" and _NO_TEXT.search(parts.path):
                self.journal.count("links to files without text")
            elif kind == "page" and depth >= 0 and not self._wanted(url):
                self.journal.count("links left out by include and exclude")
            else:
                out.append(Link(url, host_of(url), kind, depth + 1, hops))
        return out

    def _wanted(self, url: str) -> bool:
        include, exclude = self.settings.include, self.settings.exclude
        return (not include or re.search(include, url) is not None) and not (exclude and re.search(exclude, url))

    def full(self) -> bool:
        """Whether enough is fetched or under way."""
        return self.fetched + sum(map(len, self.active.values())) >= self.settings.max_pages

    def pending(self) -> bool:
        """Whether there is anything left to do."""
        busy = any(self.active.values()) or bool(self.asking)
        return busy or (self.fetched < self.settings.max_pages and any(n > 0 for n in self.journal.queued.values()))

    def take(self) -> tuple[str, Waiting | None] | None:
        """A host whose robots.txt is needed and None, or a host and an address; None when nothing is ready."""
        if self.full():
            return None
        hosts = [host for host, n in self.journal.queued.items() if n > len(self.active[host])]
        for host in sorted(hosts, key=lambda h: len(self.active[h])):
            if host in self.asking or len(self.active[host]) >= self.settings.per_host + 1:
                continue
            if host not in self.rules:
                known = self.journal.robots(host)
                if known is None:
                    self.asking.add(host)
                    return host, None
                self.rules[host] = Protego.parse(known[0])
            page = self._allowed(host)
            if page is not None:
                self.active[host].add(page.id)
                return host, page
        return None

    def _allowed(self, host: str) -> Waiting | None:
        while page := self.journal.next(host, time.time(), self.active[host]):
            if page.kind == "sitemap" or self.rules[host].can_fetch(page.url, ROBOT):
                return page
            with self.journal.together():
                self.journal.settle(page, Outcome(FAILED, "robots", "robots.txt does not allow it", time=now()))
        return None

    def done(self, page: Waiting) -> None:
        """It is not under way any more."""
        self.active[page.host].discard(page.id)

    def store(self, page: Waiting, outcome: Outcome, record: bytes, links: list[str]) -> None:
        """Archive first, journal second: see `mojiang.data._journal`."""
        end = 0
        if record:
            with open(self.archive, "ab") as file:
                file.write(record)
                file.flush()
                end = file.tell()
        with self.journal.together():
            outcome = Outcome(**{**outcome.__dict__, "archived": end})
            self.journal.settle(page, outcome, links)
            self.journal.found(self.links(links, page.depth))
        if page.kind == "page" and outcome.state in (FETCHED, UNCHANGED):
            self.fetched += 1


class JournalScheduler(BaseScheduler):
    """Scrapy's scheduler, with the journal as its queue."""

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Any) -> JournalScheduler:
        """As Scrapy makes its parts."""
        return cls(crawler)

    def has_pending_requests(self) -> bool:
        """Whether the crawl goes on."""
        return bool(self._crawler.spider.frontier.pending())

    def enqueue_request(self, request: Any) -> bool:
        """Nobody else queues anything."""
        return False

    def next_request(self) -> Any:
        """A request of the journal's."""
        return self._crawler.spider.request()


def _ends_crawl(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback after which nothing is asked for any more when the journal or the archive cannot be written.

    Scrapy only logs what a callback raises, and the address would be asked for again at once, for ever.
    """

    @wraps(callback)
    def guarded(spider: JournalSpider, *given: Any) -> Any:
        try:
            return callback(spider, *given)
        except (OSError, sqlite3.Error) as error:
            spider.fatal = f"{type(error).__name__}: {error}"
            spider.crawler.stop()

    return guarded


class JournalSpider(scrapy.Spider):
    """Makes requests of addresses, and entries of answers."""

    name = ROBOT

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.given = settings
        self.frontier = Frontier(settings)
        self.fatal = ""
        self.urgent: deque[Any] = deque()  # robots.txt files that are elsewhere

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> JournalSpider:
        """As Scrapy makes spiders; also listens to the first headers of each answer."""
        spider: JournalSpider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.refuse_by_type, signal=signals.headers_received)
        crawler.signals.connect(spider.watch, signal=signals.spider_opened)
        return spider

    async def start(self) -> Any:
        """The journal has the addresses."""
        no_requests: tuple[Any, ...] = ()
        for request in no_requests:
            yield request

    def watch(self) -> None:
        """End when the parent is gone; wake the engine for what waits to be tried again."""
        from twisted.internet.task import LoopingCall

        parent = os.getppid()

        def beat() -> None:
            if os.getppid() != parent or (self.given.folder / "stop").exists():
                self.crawler.stop()
            elif self.crawler.engine is not None and self.crawler.engine._slot is not None:
                self.crawler.engine._slot.nextcall.schedule()

        LoopingCall(beat).start(0.25, now=False)

    # -- requests -------------------------------------------------------------------------------------------------

    def request(self) -> Any:
        """The next request, or None."""
        if self.urgent:
            return self.urgent.popleft()
        taken = self.frontier.take()
        if taken is None:
            return None
        host, page = taken
        if page is None:
            return self._get(f"{host}/robots.txt", host, self.on_robots, self.on_no_robots, {"host": host, "hops": 0})
        headers = {}
        if page.kind == "page" and (earlier := self.frontier.journal.earlier(page.url)):
            headers = {k: v for k, v in (("If-None-Match", earlier[0]), ("If-Modified-Since", earlier[1])) if v}
        return self._get(page.url, host, self.on_page, self.on_failure, {"page": page}, headers)

    def _get(
        self,
        url: str,
        host: str,
        callback: Any,
        errback: Any,
        meta: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> Any:
        slot = urlsplit(host).netloc
        known = self.frontier.journal.robots(host)
        downloader = self.crawler.engine.downloader
        request = scrapy.Request(
            url, callback=callback, errback=errback, headers=headers or {}, dont_filter=True,
            meta={**meta, "download_slot": slot, "handle_httpstatus_all": True},
        )  # fmt: skip
        _, place = downloader._get_slot(request)
        place.delay = max(self.given.delay, known[1] if known else 0.0)
        return request

    def refuse_by_type(self, headers: Any, request: Any, **_: Any) -> None:
        """What is no text need not be sent."""
        media = (headers.get("Content-Type") or b"").decode("latin-1").lower()
        if media.startswith(_REFUSED_TYPES) and "page" in request.meta:
            request.meta["refused"] = media
            raise StopDownload(fail=True)

    # -- robots.txt (RFC 9309) ------------------------------------------------------------------------------------

    @_ends_crawl
    def on_robots(self, response: Any) -> Any:
        """2xx: rules; 4xx: everything is allowed; 5xx: nothing is, for now that is for this crawl."""
        meta, host = response.meta, response.meta["host"]
        location = response.headers.get("Location")
        if 300 <= response.status < 400 and location and meta["hops"] < 5:
            url = urljoin(response.url, location.decode("latin-1"))
            again = {"host": host, "hops": meta["hops"] + 1}
            self.urgent.append(self._get(url, host, self.on_robots, self.on_no_robots, again))
            return
        if 200 <= response.status < 300:
            text = response.body[:_ROBOTS_BYTES].decode("utf-8", "replace")
        else:
            text = "User-agent: *\nDisallow: /" if response.status >= 500 else ""
        self._robots_known(host, text, response.status)

    @_ends_crawl
    def on_no_robots(self, failure: Any) -> None:
        """Nobody there: nothing may be fetched."""
        host = failure.request.meta["host"] if hasattr(failure, "request") else ""
        self._robots_known(host, "User-agent: *\nDisallow: /", 0)

    def _robots_known(self, host: str, text: str, status: int) -> None:
        rules = Protego.parse(text)
        delay = float(rules.crawl_delay(ROBOT) or 0)
        rate = rules.request_rate(ROBOT)
        delay = max(delay, rate.seconds / rate.requests if rate and rate.requests else 0)
        journal = self.frontier.journal
        with journal.together():
            journal.set_robots(host, text, delay)
            if status >= 500 or not status:
                journal.count("hosts whose robots.txt cannot be read, and which are left alone")
            if self.given.sitemaps and 200 <= (status or 500) < 500:
                maps = [urljoin(host, s) for s in rules.sitemaps] or [f"{host}/sitemap.xml"]
                journal.found(self.frontier.links(maps, -1, "sitemap"))
        self.frontier.rules[host] = rules
        self.frontier.asking.discard(host)

    # -- pages ----------------------------------------------------------------------------------------------------

    @_ends_crawl
    def on_page(self, response: Any) -> None:
        """An answer, of whatever status.

        What goes wrong with it is its outcome: an address that has none would be asked for again and again.
        """
        page: Waiting = response.meta["page"]
        try:
            self._answered(page, response)
        except (OSError, sqlite3.Error):
            raise  # of the disk: see `_ends_crawl`
        except Exception as error:
            self._fail(page, "broken", f"{type(error).__name__}: {error}"[:500])
        finally:
            self.frontier.done(page)

    def _answered(self, page: Waiting, response: Any) -> None:
        status, journal = response.status, self.frontier.journal
        location = (response.headers.get("Location") or b"").decode("latin-1")
        if status == 304:
            earlier = journal.earlier(page.url) or ("", "", [])
            links = [str(link) for link in earlier[2]]
            self.frontier.store(
                page, Outcome(UNCHANGED, etag=earlier[0], last_modified=earlier[1], time=now()), b"", links
            )
        elif 300 <= status < 400 and location:
            self._redirect(page, urljoin(response.url, location))
        elif status in _AGAIN:
            self._try_again(page, f"status {status}", "server-error", response.headers.get("Retry-After"))
        elif not 200 <= status < 300:
            self._fail(page, "status", f"status {status}")
        elif page.kind == "sitemap":
            self._sitemap(page, response)
        else:
            self._keep(page, response)

    def _redirect(self, page: Waiting, target: str) -> None:
        journal = self.frontier.journal
        with journal.together():
            if page.hops + 1 > _MOST_HOPS:
                reason = Outcome(FAILED, "redirects", f"more than {_MOST_HOPS} redirects", time=now())
                journal.settle(page, reason)
                return
            links = self.frontier.links([target], page.depth - 1, page.kind, page.hops + 1)
            new = journal.found(links)
            detail = target if links else f"{target} is left out"
            loop = bool(links) and not new and canonical(target) == page.url
            outcome = Outcome(FAILED, "redirects", "to itself", time=now()) if loop else None
            journal.settle(page, outcome or Outcome(REDIRECTED, detail=detail, time=now()), [target])

    def _keep(self, page: Waiting, response: Any) -> None:
        body: bytes = response.body
        media = (response.headers.get("Content-Type") or b"").decode("latin-1")
        links: list[str] = []
        said = (response.headers.get("X-Robots-Tag") or b"").decode("latin-1").lower()
        if "html" in media.lower() or body[:1024].lstrip()[:1] == b"<":
            text = _decoded(body, media)
            said += " " + " ".join(_META_ROBOTS.findall(text[:100_000])).lower()
            links = [] if re.search(r"\b(?:nofollow|none)\b", said) else links_of(text, response.url)
        if re.search(r"\b(?:noindex|none|noai)\b", said):
            with self.frontier.journal.together():
                self.frontier.journal.settle(page, Outcome(FAILED, "robots-tag", said.strip(), time=now()), links)
                self.frontier.journal.found(self.frontier.links(links, page.depth))
            return
        header = {n: (response.headers.get(n) or b"").decode("latin-1") for n in ("ETag", "Last-Modified")}
        when = now()
        outcome = Outcome(
            FETCHED, etag=header["ETag"], last_modified=header["Last-Modified"],
            sha256=hashlib.sha256(body).hexdigest(), bytes=len(body), time=when,
        )  # fmt: skip
        self.frontier.store(page, outcome, warc_record(page.url, response.status, media, body, when), links)

    def _sitemap(self, page: Waiting, response: Any) -> None:
        body = response.body
        if body[:2] == b"\x1f\x8b":
            body = zlib.decompressobj(47).decompress(body, self.given.max_page_bytes) if _whole(body) else b""
        text = body.decode("utf-8", "replace")
        found = [unescape(u.strip()) for u in re.findall(r"<loc>\s*(?:<!\[CDATA\[)?([^<\]]{1,2000})", text)]
        kind = "sitemap" if "<sitemapindex" in text[:10_000] else "page"
        journal = self.frontier.journal
        with journal.together():
            room = _SITEMAPS - sum(journal.states("sitemap").values()) if kind == "sitemap" else len(found)
            journal.settle(page, Outcome(FETCHED, time=now(), bytes=len(response.body)))
            journal.found(self.frontier.links(found[: max(0, room)], 0 if kind == "page" else -1, kind))
            journal.count("addresses in sitemaps", len(found) if kind == "page" else 0)

    # -- what goes wrong ------------------------------------------------------------------------------------------

    @_ends_crawl
    def on_failure(self, failure: Any) -> None:
        """No answer, or none that was let in."""
        page: Waiting = failure.request.meta["page"]
        self.frontier.done(page)
        name, said = failure.type.__name__, failure.getErrorMessage()
        if refused := failure.request.meta.get("refused"):
            self._fail(page, "not-text", refused)
        elif name == "DownloadCancelledError" or "exceeded DOWNLOAD_MAXSIZE" in said or "maxsize" in said.lower():
            self._fail(page, "too-large", f"more than {self.given.max_page_bytes:,} bytes, also unpacked")
        elif name in ("DNSLookupError", "UnsupportedURLSchemeError"):
            self._fail(page, "no-such-host", said)
        else:
            timeout = "Timeout" in name
            self._try_again(page, f"{name}: {said}", "timeout" if timeout else "connection", None)

    def _fail(self, page: Waiting, reason: str, detail: str) -> None:
        with self.frontier.journal.together():
            self.frontier.journal.settle(page, Outcome(FAILED, reason, detail, time=now()))

    def _try_again(self, page: Waiting, detail: str, reason: str, asked: bytes | None) -> None:
        if page.attempts >= self.given.retries:
            self._fail(page, reason, f"{detail}, {page.attempts + 1} times")
            return
        wait = min(_LONGEST_PAUSE, _seconds(asked) if asked else self.given.delay + 2.0**page.attempts)
        with self.frontier.journal.together():
            self.frontier.journal.again(page, time.time() + wait)


def _decoded(body: bytes, media: str) -> str:
    """A page as the corpus will read it: what it declares counts as far as it fits."""
    charset = re.search(r"charset\s*=\s*[\"']?([-\w.:]+)", media, re.IGNORECASE)
    found = detect(body, "html", declared=named_codec(charset[1]) if charset else "")
    return body.decode(found.name or "latin-1", "replace")


def _whole(packed: bytes) -> bool:
    try:
        zlib.decompressobj(47).decompress(packed, 1 << 16)
    except zlib.error:
        return False
    return True


def _seconds(value: bytes) -> float:
    text = value.decode("latin-1").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 1.0


def warc_record(url: str, status: int, media: str, body: bytes, when: str) -> bytes:
    """A response as a gzip member of a WARC file (ISO 28500)."""
    http = f"HTTP/1.1 {status} OK\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n".encode(
        "latin-1", "replace"
    )
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{uuid.uuid4()}>\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: {when}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http) + len(body)}\r\n\r\n"
    ).encode()
    return gzip.compress(head + http + body + b"\r\n\r\n", 6)


def scrapy_settings(given: Settings) -> dict[str, Any]:
    """Scrapy's own settings: what it does on its own account is switched off where the journal does it."""
    return {
        "USER_AGENT": given.user_agent, "SCHEDULER": JournalScheduler, "DOWNLOAD_DELAY": given.delay,
        "RANDOMIZE_DOWNLOAD_DELAY": False, "CONCURRENT_REQUESTS": given.per_host * given.hosts_at_once,
        "CONCURRENT_REQUESTS_PER_DOMAIN": given.per_host, "DOWNLOAD_TIMEOUT": given.timeout,
        "DOWNLOAD_MAXSIZE": given.max_page_bytes, "DOWNLOAD_WARNSIZE": 0, "ROBOTSTXT_OBEY": False,
        "RETRY_ENABLED": False, "REDIRECT_ENABLED": False, "COOKIES_ENABLED": False, "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "ERROR",
        "HTTPERROR_ALLOW_ALL": True, "METAREFRESH_ENABLED": False, "DOWNLOAD_FAIL_ON_DATALOSS": True,
    }  # fmt: skip


def main(folder: Path) -> None:
    """Crawl what settings.json in the folder says, from where the journal stands."""
    given = Settings(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    given.folder = folder
    with FileLock(folder / "lock", timeout=60):
        process = CrawlerProcess(scrapy_settings(given), install_root_handler=True)
        crawler = process.create_crawler(JournalSpider)
        process.crawl(crawler, settings=given)
        process.start()
        if fatal := getattr(crawler.spider, "fatal", ""):
            sys.exit(fatal)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

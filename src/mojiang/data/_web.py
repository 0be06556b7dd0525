"""Sources behind HTTP: a file, whose download goes on where it broke, or a JSON API, page after page."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urljoin, urlsplit, urlunsplit

import httpx

from mojiang.core.errors import BadInput, Interrupted, NotFound, Unavailable
from mojiang.data._formats import kind_of
from mojiang.data._remote import Paging
from mojiang.data._snapshot import Pace, Snapshot, at_path, from_environment, name_of

_TRIES: Final = 6
_LONGEST_WAIT: Final = 900.0  # seconds a server may ask for before it is given up
_REDIRECTS: Final = 10
_PAGE_BYTES: Final = 64 * 2**20
_TIMEOUT: Final = httpx.Timeout(60, connect=20)
_AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_AGENT: Final = "mojiang (data.load)"
_NEXT: Final = (
    "next", "links.next", "links.next.href", "_links.next.href", "paging.next", "pagination.next", "next_page_url",
    "pagination.next_url", "next_url", "nextLink", "@odata.nextLink", "next_page", "info.next", "meta.next",
)  # fmt: skip
_CURSORS: Final = (
    "next_cursor", "nextCursor", "cursor", "next_page_token", "nextPageToken", "meta.next_cursor", "paging.next_cursor",
    "pagination.next_cursor", "response_metadata.next_cursor", "page_info.end_cursor", "pageInfo.endCursor", "next",
    "next_token",
)  # fmt: skip
_RECORDS: Final = ("data", "results", "items", "records", "entries", "hits", "hits.hits", "rows", "value", "values")
_BY_TYPE: Final = {
    "text/html": ".html", "application/pdf": ".pdf", "text/csv": ".csv", "application/x-ndjson": ".jsonl",
    "text/markdown": ".md", "application/gzip": ".gz", "application/warc": ".warc", "application/json": ".json",
}  # fmt: skip


class Connection:
    """Requests with pace, patience and redirects; headers of the user go to the host they were meant for only."""

    def __init__(self, source: str, paging: Paging, check_stop: Callable[[], None]) -> None:
        self.pace = Pace(paging.per_second, check_stop)
        self._origin = _origin(source)
        lines = (line.partition(":") for line in paging.headers)
        self._headers = {name: from_environment(value.strip()) for name, _, value in lines}
        self._client = httpx.Client(timeout=_TIMEOUT, headers={"User-Agent": _AGENT})
        self.waits = 0

    def close(self) -> None:
        """Close what is kept open."""
        self._client.close()

    @contextmanager
    def get(self, url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        """The answer, its body unread, after redirects; a server that is busy is asked again.

        Raises:
            Unavailable: it does not answer, or not any more.
            NotFound: there is no such page.
            BadInput: it refuses.
        """
        for attempt in range(1, _TRIES + 1):
            self.pace.turn()
            try:
                response = self._followed(url, headers or {})
            except httpx.TransportError as error:
                if attempt == _TRIES:
                    said = f"{type(error).__name__}: {error}"
                    raise Unavailable(f"{name_of(url)} does not answer: {said}", hint=_later()) from error
                self.pause(None, attempt)
                continue
            if response.status_code not in _AGAIN or attempt == _TRIES:
                break
            asked = response.headers.get("retry-after")
            response.close()
            self.pause(asked, attempt)
        with contextlib.closing(response):
            _check(response, url)
            yield response

    def pause(self, asked: str | None, attempt: int) -> None:
        """Wait as long as the server asks for, or a second, two, four, …"""
        self.waits += 1
        seconds = retry_after(asked, time.time())
        if seconds is not None and seconds > _LONGEST_WAIT:
            raise Unavailable(f"the server asks to wait for {seconds:,.0f} seconds", hint=_later())
        self.pace.wait(min(2.0 ** (attempt - 1), 60) if seconds is None else seconds)

    def _followed(self, url: str, headers: dict[str, str]) -> httpx.Response:
        seen = url
        for _ in range(_REDIRECTS):
            own = self._headers if _origin(url) == self._origin else {}
            response = self._client.send(self._client.build_request("GET", url, headers=headers | own), stream=True)
            if not response.has_redirect_location:
                return response
            response.close()
            url = urljoin(url, response.headers["location"])
        raise BadInput(
            f"{name_of(seen)} redirects more than {_REDIRECTS} times", hint="give the address it should end at"
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _later() -> str:
    return "the same command continues from what is here (on another day add --as-of with today's date)"


def _check(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (401, 403):
        hint = "give --headers 'Authorization: Bearer $TOKEN' and export TOKEN"
        raise BadInput(f"{name_of(url)} refuses: status {status}", hint=hint)
    if status in (404, 410):
        raise NotFound(f"{name_of(url)} is not there: status {status}", hint="check the address")
    if status in _AGAIN:
        raise Unavailable(f"{name_of(url)} fails with status {status}, {_TRIES} times", hint=_later())
    if status >= 400 and status != 416:
        raise BadInput(f"{name_of(url)} refuses: status {status}", hint="check the address and its parameters")


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number or a date (RFC 9110, 10.2.3).

    >>> retry_after("7", 0), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 10), retry_after("soon", 0)
    (7.0, 50.0, None)
    """
    if not value:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError):
        return None


def fetch_web(
    source: str,
    paging: Paging,
    shot: Snapshot,
    check_stop: Callable[[], None],
    progress: Callable[[float, float], None],
) -> None:
    """Fetch a file or all pages of an API into the snapshot, or what is missing of them."""
    if shot.done:
        return
    url = from_environment(source)
    connection = Connection(url, paging, check_stop)
    try:
        if _is_file(url) and not (paging.page or paging.cursor or paging.next):
            _download(url, _file_name(url, ""), connection, shot, progress)
            return
        if not shot.chunks:
            with connection.get(url) as response:
                media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if not re.search(r"[/+]json$", media):
                    response.close()
                    _download(url, _file_name(url, media), connection, shot, progress)
                    return
        _pages(url, paging, connection, shot, progress)
    finally:
        connection.close()


def _is_file(url: str) -> bool:
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    format, _, suffix = kind_of(name)
    return bool(suffix) or (format != "txt" and "." in name) or name.lower().endswith(".txt")


def _file_name(url: str, media: str) -> str:
    name = re.sub(r"[^\w.+-]", "_", unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]))[-120:] or "index"
    return name if _is_file(url) else name + _BY_TYPE.get(media, "")


# -- a file -------------------------------------------------------------------------------------------------------


def _download(
    url: str, name: str, connection: Connection, shot: Snapshot, progress: Callable[[float, float], None]
) -> None:
    """Get the file, going on after what is there as long as the server still has the same one."""
    part, tag = shot.folder / f"{name}.part", shot.folder / f"{name}.tag"
    broken = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _attempt(url, part, tag, connection, progress):
                break
        except (httpx.TransportError, Interrupted) as error:
            if isinstance(error, Interrupted):
                raise
        grown = (part.stat().st_size if part.exists() else 0) > before
        broken = 0 if grown else broken + 1
        if broken >= _TRIES:
            raise Unavailable(f"{name_of(url)} broke off {_TRIES} times at byte {before:,}", hint=_later())
        connection.pause(None, broken + 1)
    os.replace(part, shot.folder / name)
    tag.unlink(missing_ok=True)
    shot.note(name, name_of(url), None)


def _attempt(url: str, part: Path, tag: Path, connection: Connection, progress: Callable[[float, float], None]) -> bool:
    """Ask for what is missing; True when the file is whole."""
    have = part.stat().st_size if part.exists() else 0
    known = tag.read_text() if tag.exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with connection.get(url, headers) as response:
        if response.status_code == 416:  # nothing after what is here: either it is whole, or it is another file
            whole = re.search(r"\*/(\d+)", response.headers.get("content-range", ""))
            if whole and int(whole[1]) == have:
                return True
            part.unlink()
            return False
        starts = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        goes_on = response.status_code == 206 and starts is not None and int(starts[1]) == have
        etag = response.headers.get("etag", "")
        tag.write_text(etag if etag and not etag.startswith("W/") else response.headers.get("last-modified", ""))
        length = response.headers.get("content-length")
        have = have if goes_on else 0
        total = have + int(length) if length and length.isdigit() else None
        with open(part, "ab" if goes_on else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                have += len(block)
                progress(have, total or have)
                connection.pace.wait(0)
    return total is None or have == total


# -- an API -------------------------------------------------------------------------------------------------------


def _pages(
    source: str, paging: Paging, connection: Connection, shot: Snapshot, progress: Callable[[float, float], None]
) -> None:
    first = _with_parameter(source, paging.page, str(paging.first_page)) if paging.page else source
    url, seen = shot.next or first, {chunk.origin for chunk in shot.chunks}
    while True:
        with connection.get(url) as response:
            answer, link = _json(response, url), response.links.get("next", {}).get("url")
        rows = records_of(answer, paging.records)
        if rows is None:
            where = f" at {paging.records}" if paging.records else ""
            raise BadInput(
                f"{name_of(url)} holds no list of records{where}: {_keys(answer)}",
                hint="say where it is with --records, such as --records data.items",
            )
        following = _following(url, answer, link, bool(rows), paging)
        number = len(shot.chunks) + 1
        if following in seen or following == url:
            following = None  # the pages go in a circle
        if paging.max_pages and number >= paging.max_pages:
            following = None
        seen.add(url)
        shot.add(rows, url, following)
        progress(number, number + (following is not None))
        if following is None:
            return
        url = following


def _json(response: httpx.Response, url: str) -> Any:
    body = b""
    for block in response.iter_bytes():
        body += block
        if len(body) > _PAGE_BYTES:
            raise BadInput(
                f"a page of {name_of(url)} has more than {_PAGE_BYTES:,} bytes", hint="ask for smaller pages"
            )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{name_of(url)} answers with broken JSON: {error}", hint="is this the API's address?"
        ) from error


def _keys(answer: Any) -> str:
    return f"it has {', '.join(map(str, list(answer)[:12]))}" if isinstance(answer, dict) else type(answer).__name__


def records_of(answer: Any, path: str) -> list[Any] | None:
    """The list of records in an answer: at `path`, or itself, or under a usual name, or the one list of objects.

    >>> records_of({"count": 1, "results": [{"text": "a"}]}, ""), records_of({"text": "a"}, "")
    ([{'text': 'a'}], None)
    """
    if path:
        found = at_path(answer, path)
        return found if isinstance(found, list) else None
    if isinstance(answer, list):
        return answer
    for name in _RECORDS:
        if isinstance(found := at_path(answer, name), list):
            return found
    if isinstance(answer, dict):
        lists = [v for v in answer.values() if isinstance(v, list) and all(isinstance(item, dict) for item in v)]
        return lists[0] if len(lists) == 1 else None
    return None


def _following(url: str, answer: Any, link: str | None, more: bool, paging: Paging) -> str | None:
    """The address of the page after this one."""
    if paging.page:
        number = dict(parse_qsl(urlsplit(url).query)).get(paging.page, "")
        return _with_parameter(url, paging.page, str(int(number) + 1)) if more and number.isdigit() else None
    if paging.cursor:
        places = (paging.next,) if paging.next else _CURSORS
        found = next((v for place in places if isinstance(v := at_path(answer, place), str | int) and v != ""), None)
        return None if found in (None, False, 0) else _with_parameter(url, paging.cursor, str(found))
    if link:
        return urljoin(url, link)
    for place in (paging.next,) if paging.next else _NEXT:
        found = at_path(answer, place)
        if isinstance(found, str) and re.match(r"https?://|[/?]", found):
            return urljoin(url, found)
    return None


def _with_parameter(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    kept = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k != name]
    return urlunsplit(parts._replace(query=urlencode([*kept, (name, value)])))

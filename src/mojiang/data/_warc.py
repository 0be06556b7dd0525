"""WARC and WET files (ISO 28500): the pages of a crawl, their text read as that of files is.

Read here and by no library: at an archive that is cut in the middle, fastwarc 2.0 and warcio 1.8 both stop without a
word, so that nobody knows what is missing. Here the end of each record is checked against its length.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from mojiang.data._encoding import detect, named_codec
from mojiang.data._formats import Notes, Options, Piece, Skip, cut, digest, kind_of
from mojiang.data._html import html_page
from mojiang.data._pdf import read_pdf

_MAX_RECORD: Final = 32 * 2**20
_MAX_HEADER: Final = 64 * 1024
_TEXT_RECORDS: Final = frozenset(("response", "resource", "conversion"))
_HTML: Final = frozenset(("text/html", "application/xhtml+xml"))
_BY_TYPE: Final = {
    "text/markdown": "markdown", "text/x-rst": "rst", "application/json": "json", "application/pdf": "pdf",
    "text/csv": "csv", "application/x-ndjson": "jsonl", "text/x-python": "code",
}  # fmt: skip

Headers = dict[str, str]


@dataclass(frozen=True)
class Record:
    """One record: its headers by lower-case name, its content, and how much of it was over the limit."""

    headers: Headers
    content: bytes
    left_out: int = 0

    @property
    def url(self) -> str:
        """What was asked for."""
        return self.headers.get("warc-target-uri", "").strip("<>")


class CutShort(EOFError):
    """The file ends within a record."""


def records(stream: BinaryIO, limit: int = _MAX_RECORD) -> Iterator[Record]:
    """Every record of an uncompressed stream, in bounded memory.

    Raises:
        CutShort: the last record is not whole.
        ValueError: what should be a record is none.
    """
    while line := stream.readline(_MAX_HEADER):
        if not line.strip():
            continue
        if not line.startswith(b"WARC/"):
            raise ValueError(f"no record begins with {line[:40]!r}")
        headers = _headers(stream)
        length = headers.get("content-length", "")
        if not length.isdigit():
            raise ValueError(f"a record has the length {length!r}")
        kept = stream.read(min(int(length), limit)) or b""
        left = int(length) - len(kept)
        passed = 0
        while passed < left and (block := stream.read(min(1 << 20, left - passed))):
            passed += len(block)
        if passed < left:
            raise CutShort(f"the record of {headers.get('warc-target-uri', 'no address')} ends {left - passed:,} early")
        yield Record(headers, kept, left)


def _headers(stream: BinaryIO) -> Headers:
    found: Headers = {}
    name, total = "", 0
    while line := stream.readline(_MAX_HEADER):
        total += len(line)
        if total > _MAX_HEADER:
            raise ValueError("the header of a record has no end")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return found
        if text[0] in " \t" and name:
            found[name] += " " + text.strip()
        else:
            name, _, value = text.partition(":")
            name = name.strip().lower()
            found[name] = value.strip()
    raise CutShort("the file ends in the header of a record")


def read_warc(stream: BinaryIO, size: int, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    """The documents of a WARC or WET file; `part` is the number of the record."""
    number = 0
    try:
        for number, record in enumerate(records(stream), 1):
            kind = record.headers.get("warc-type", "")
            if kind in _TEXT_RECORDS:
                yield from _document(record, kind, str(number), options, notes)
            else:
                notes.counts[f"WARC records without a document ({kind or 'no type'})"] += 1
    except (CutShort, ValueError, EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        ending = isinstance(error, EOFError)
        rest = max(0, size - _position(stream))
        said = f"after {number} records: {error}"
        yield Skip("warc-cut-short" if ending else "broken-warc", said, rest, str(number + 1))


def _position(stream: BinaryIO) -> int:
    """How far the file under a decompressing stream has been read."""
    raw = getattr(stream, "fileobj", None) or getattr(stream, "_source", None) or stream
    try:
        return int(raw.tell())
    except (OSError, AttributeError, ValueError):
        return 0


def _document(record: Record, kind: str, part: str, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    headers, body = record.headers, record.content
    if record.left_out:
        yield Skip("record-too-long", record.url, len(body) + record.left_out, part, record.url)
        return
    content_type = headers.get("content-type", "")
    if kind == "response":
        try:
            status, answered, body = parse_http(body)
        except ValueError as error:
            yield Skip("broken-http", f"{record.url}: {error}", len(record.content), part, record.url)
            return
        if not 200 <= status < 300:
            yield Skip("not-a-page", f"{record.url}: status {status}", len(body), part, record.url)
            return
        content_type = answered.get("content-type", "")
    time = headers.get("warc-date", "")
    yield from page_texts(body, content_type, record.url, time, part, options, notes)


def page_texts(
    body: bytes, content_type: str, url: str, time: str, part: str, options: Options, notes: Notes
) -> Iterator[Piece | Skip]:
    """The text of what a server sent for an address."""
    media = content_type.partition(";")[0].strip().lower()
    format, language = _format(media, url, body)
    if format == "pdf":
        for item in read_pdf(Path(url), len(body), options, notes, lambda _: io.BytesIO(body)):
            name = f"{part}.{item.part}" if item.part else part
            if isinstance(item, Piece):
                item = replace(item, time=time or item.time, sha256=digest(body))
            yield replace(item, part=name, origin=url)
        return
    if format == "binary":
        yield Skip("binary", f"{url} ({media or 'no type'})", len(body), part, url)
        return
    charset = re.search(r"charset\s*=\s*[\"']?([-\w.:]+)", content_type, re.IGNORECASE)
    html = format == "html"
    found = detect(body, format, declared=named_codec(charset[1], html) if charset else "")
    if not found.is_text:
        yield Skip("binary", f"{url}: {found.evidence}", len(body), part, url)
        return
    notes.encodings[found.name] += 1
    text, licence = body.decode(found.name, "replace"), None
    if html:
        page = html_page(text, options.whole_pages)
        notes.saw_page(page)
        text, licence = page.text, page.licence
    for number, (piece, last) in enumerate(cut(iter([text]), options.max_prose_bytes, notes), 1):
        name = part if last and number == 1 else f"{part}.{number}"
        yield Piece(piece, name, format, language, licence, origin=url, time=time, sha256=digest(body))


def _format(media: str, url: str, body: bytes) -> tuple[str, str | None]:
    if media in _HTML:
        return "html", None
    if media in _BY_TYPE:
        return _BY_TYPE[media], None
    if media.startswith(("image/", "audio/", "video/", "font/")):
        return "binary", None
    format, language, _ = kind_of(re.sub(r"[?#].*", "", url))
    if body.startswith(b"%PDF-"):
        return "pdf", None
    if re.match(rb"\s*(?:<!doctype html|<html)", body[:1024], re.IGNORECASE):
        return "html", None
    if media == "text/plain" or format in ("json", "jsonl", "csv", "parquet", "mail", "warc", "docx", "pdf"):
        return "txt", None
    return format, language


# -- what is in a response ----------------------------------------------------------------------------------------


def parse_http(message: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers by lower-case name, and the body as it was before the transport coded it.

    Raises:
        ValueError: it is no answer of a server, or its coding is broken or unknown.
    """
    head, mark, body = message.partition(b"\r\n\r\n")
    if not mark:
        head, mark, body = message.partition(b"\n\n")
    first, *lines = head.decode("latin-1").splitlines() or [""]
    status = re.match(r"HTTP/[\d.]+ (\d{3})", first)
    if status is None:
        raise ValueError(f"no status in {first[:60]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _dechunked(body)
    return int(status[1]), headers, decoded_body(body, headers.get("content-encoding", ""))


def _dechunked(body: bytes) -> bytes:
    """The chunks put together; Common Crawl keeps the header and stores what was in them, which is left as it is."""
    out: list[bytes] = []
    at = 0
    while found := re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]*\r\n").match(body, at):
        size = int(found[1], 16)
        if not size:
            return b"".join(out)
        at = found.end() + size
        if body[at : at + 2] != b"\r\n":
            break
        out.append(body[found.end() : at])
        at += 2
    return body


def decoded_body(body: bytes, coding: str, limit: int = _MAX_RECORD) -> bytes:
    """A body without its content coding, of at most `limit` bytes.

    Raises:
        ValueError: the coding is broken or unknown, or unpacks to more.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity") or (coding in ("gzip", "x-gzip") and body[:2] != b"\x1f\x8b"):
        return body  # crawlers often store what they unpacked under the header of what they got
    try:
        if coding in ("gzip", "x-gzip", "deflate"):
            window = -15 if coding == "deflate" and body[:1] != b"\x78" else 47
            unpacker = zlib.decompressobj(window)
            out = unpacker.decompress(body, limit + 1)
        elif coding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(body) as reader:
                out = reader.read(limit + 1)
        else:
            raise ValueError(f"content coding {coding!r} is not read")
    except (zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"the {coding} body is broken: {error}") from error
    if len(out) > limit:
        raise ValueError(f"the {coding} body unpacks to more than {limit:,} bytes")
    return out

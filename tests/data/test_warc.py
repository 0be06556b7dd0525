"""WARC files written by warcio are read back, also cut anywhere; codings of the transport against their own writers."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from pathlib import Path

import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from mojiang.data._formats import Notes, Options, Piece, Skip, read_file
from mojiang.data._warc import decoded_body, parse_http


class Writer(WARCWriter):
    """warcio's, without the temporary files that it never closes."""

    @classmethod
    def _create_temp_file(cls) -> io.BytesIO:
        return io.BytesIO()


def page(number: int, text: str = "", charset: str = "utf-8") -> bytes:
    body = f"<html><body><h1>Page {number}</h1><p>{text or f'The text of page number {number}.'}</p></body></html>"
    return body.encode(charset)


def warc(pages: list[tuple[str, bytes, list[tuple[str, str]]]], packed: bool = True, kind: str = "response") -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, gzip=packed)
    writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "test"}))
    for url, body, headers in pages:
        http = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1") if kind == "response" else None
        record = writer.create_warc_record(url, kind, payload=io.BytesIO(body), http_headers=http)
        writer.write_record(record)
    return stream.getvalue()


def read(path: Path, data: bytes) -> tuple[list[Piece], list[Skip], Notes]:
    path.write_bytes(data)
    notes = Notes()
    found = list(read_file(path, path.name, len(data), Options(), notes))
    return [i for i in found if isinstance(i, Piece)], [i for i in found if isinstance(i, Skip)], notes


HTML = [("Content-Type", "text/html; charset=utf-8")]
PAGES = [(f"http://example.org/{n}", page(n), HTML) for n in range(20)]


@pytest.mark.parametrize("packed", [True, False])
def test_pages_with_address_and_time(tmp_path: Path, packed: bool) -> None:
    pieces, skips, notes = read(tmp_path / f"a.warc{'.gz' * packed}", warc(PAGES, packed))
    assert not skips
    assert [p.text for p in pieces] == [f"# Page {n}\n\nThe text of page number {n}.\n" for n in range(20)]
    assert [p.origin for p in pieces] == [url for url, _, _ in PAGES]
    assert all(p.time.startswith("20") and p.format == "html" for p in pieces)
    assert notes.counts["WARC records without a document (warcinfo)"] == 1


def test_wet_and_other_types(tmp_path: Path) -> None:
    wet = warc([("http://a/x", "纯文本内容。".encode(), [])], kind="conversion")
    assert read(tmp_path / "a.warc.wet.gz", wet)[0][0].text == "纯文本内容。"
    russian = [("Content-Type", "text/html; charset=koi8-r")]
    kinds = [
        ("http://a/1", b"\x89PNG\r\n\x1a\n" + bytes(99), [("Content-Type", "image/png")]),
        ("http://a/x.py", b"x = 1\n", [("Content-Type", "text/x-python")]),
        ("http://a/2", page(2, "这个页面声明了错误的编码，实际是国标。", "gb18030"), HTML),
        ("http://a/3", page(3, "Сегодня хорошая погода, мы идём гулять.", "koi8-r"), russian),
    ]  # fmt: skip
    pieces, skips, _ = read(tmp_path / "b.warc.gz", warc(kinds))
    assert [(s.reason, s.part) for s in skips] == [("binary", "2")]
    assert [p.format for p in pieces] == ["code", "html", "html"]
    assert "这个页面声明了错误的编码" in pieces[1].text
    assert "Сегодня" in pieces[2].text


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_cut_anywhere_what_came_before_is_kept_and_the_rest_counted(tmp_path: Path, suffix: str) -> None:
    data = warc(PAGES, bool(suffix))
    generator = random.Random(1)
    for end in [*(generator.randrange(600, len(data) - 6) for _ in range(40))]:
        pieces, skips, _ = read(tmp_path / f"a.warc{suffix}", data[:end])
        assert [p.text for p in pieces] == [f"# Page {n}\n\nThe text of page number {n}.\n" for n in range(len(pieces))]
        assert len(pieces) < 20
        if len(pieces) * 2 + len(skips) < 20:
            assert skips or data[:end].endswith(b"\r\n\r\n") or not suffix


def test_a_cut_within_a_record_always_has_a_reason(tmp_path: Path) -> None:
    plain = warc(PAGES, packed=False)
    for end in (plain.rindex(b"Page 19") + 2, plain.rindex(b"WARC-Type") + 5, plain.rindex(b"WARC/1.") + 3):
        for suffix, data in (("", plain[:end]), (".zst", zstandard.compress(plain)[: end // 20])):
            _, skips, _ = read(tmp_path / f"a.warc{suffix}", data)
            assert len(skips) == 1
            assert skips[0].reason in ("warc-cut-short", "broken-warc")
    packed = warc(PAGES)
    _, skips, _ = read(tmp_path / "b.warc.gz", packed[:-200])
    assert [s.reason for s in skips] == ["warc-cut-short"]


def test_damage_in_the_middle(tmp_path: Path) -> None:
    data = bytearray(warc(PAGES))
    half = len(data) // 2
    data[half : half + 60] = bytes(60)
    pieces, skips, _ = read(tmp_path / "a.warc.gz", bytes(data))
    assert 5 < len(pieces) < 15
    assert [s.reason for s in skips] == ["broken-warc"]
    assert skips[0].part == str(len(pieces) + 2)


def test_error_pages_and_nonsense_are_no_documents(tmp_path: Path) -> None:
    stream = io.BytesIO()
    writer = Writer(stream, gzip=True)
    for status in ("404 Not Found", "301 Moved"):
        http = StatusAndHeaders(status, HTML, protocol="HTTP/1.1")
        body = io.BytesIO(b"<p>not found</p>")
        writer.write_record(writer.create_warc_record("http://a/x", "response", payload=body, http_headers=http))
    pieces, skips, _ = read(tmp_path / "a.warc.gz", stream.getvalue())
    assert (pieces, [s.reason for s in skips]) == ([], ["not-a-page"] * 2)


def test_transport_codings() -> None:
    body = "正文 text ".encode() * 500
    packers = {
        "gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress, "": bytes,
        "identity": bytes,
    }  # fmt: skip
    for coding, pack in packers.items():
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Type: text/html\r\n\r\n".encode()
        assert parse_http(head + pack(body)) == (200, {"content-encoding": coding, "content-type": "text/html"}, body)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5;x=1\r\npedia\r\n0\r\n\r\n"
    assert parse_http(chunked)[2] == b"Wikipedia"
    assert (
        parse_http(chunked.replace(b"4\r\nWiki\r\n5;x=1\r\npedia\r\n0\r\n\r\n", b"5 is not a chunk"))[2]
        == b"5 is not a chunk"
    )
    assert decoded_body(b"<html>already unpacked", "gzip") == b"<html>already unpacked"
    raw = zlib.compressobj(wbits=-15)
    assert decoded_body(raw.compress(body) + raw.flush(), "deflate") == body


def test_bombs_and_unknown_codings_are_refused_in_little_memory() -> None:
    bomb = gzip.compress(bytes(20_000_000))
    with pytest.raises(ValueError, match="unpacks to more than 1,000,000 bytes"):
        decoded_body(bomb, "gzip", 1_000_000)
    with pytest.raises(ValueError, match="'br' is not read"):
        decoded_body(b"x", "br")
    with pytest.raises(ValueError, match="broken"):
        decoded_body(b"\x1f\x8bxx", "gzip")

"""What comes in broken, hostile or odd is kept as far as it is whole, and the rest has its reason; nothing is lost."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.artifact import Artifact
from mojiang.data import _packed
from mojiang.data._accounting import Drop
from mojiang.data._encoding import detect, named_codec
from mojiang.data._formats import Notes, Options
from mojiang.data._loading import Settings, documents
from mojiang.data._sources import Found, open_source
from mojiang.data.load import Load

NOISE = random.Random(4).randbytes(20_000)


def fates(path: Path) -> list[str]:
    """The text of each document of a file, and `reason` of each drop in angle brackets."""
    settings = Settings("s", "MIT", None, Options())
    items = documents(Found(path, path.name, path.stat().st_size), settings, Notes())
    return [f"<{item.reason}>" if isinstance(item, Drop) else item[0]["text"].strip() for item in items]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b'text\nhello, world\nfine\n"a,b"\n', ["<too-many-cells>", "fine", "a,b"]),
        ("a.csv", b"id,text\n1,one,,\n2,two\n", ["one", "two"]),  # commas after the last cell hold nothing
        ("a.csv", b'id,text\n1,one\n2,"never closed\n3,x\n', ["one", "<broken-csv>"]),
        ("a.csv", b"id,text\n1,one\n2,nul \0 here\n3,three, four\n", ["one", "nul \0 here", "<too-many-cells>"]),
        ("a.json", b'[{"text": "one"}]\n[{"text": "two"}]', ["one", "<broken-json>"]),
        ("a.json", b'{"d": [{"text": "one"}, {"text": "two"}]} {"d": [{"text": "three"}]}', ["one", "two", "three"]),
        ("a.json", b"[]", ["<empty>"]),
        ("a.jsonl", b"\n\n", ["<empty>"]),
        ("a.csv", b"id,text\n", ["<empty>"]),
        ("a.warc", b"", ["<empty>"]),
        ("a.parquet", b"no parquet", ["<broken-parquet>"]),
        ("a.mbox", b"From a@b Mon Jan  1 10:00:00 2001\n" + NOISE, ["<empty>", "<binary>"]),
        ("a.eml", NOISE, ["<empty>", "<binary>"]),
        ("a.eml", b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000)),
         ["<nested-too-deeply>"]),
        ("a.eml", b"From: a@b\nDate: Mon, 1 Jan 2001 10:00:00 +9999999999\n\nHello", ["Hello"]),
    ],
)  # fmt: skip
def test_fates(name: str, content: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert fates(tmp_path / name) == expected


def test_records_of_several_values_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"d": [{"text": "a"}, {"text": "b"}]} {"d": [{"text": "c"}, {"text": "d"}]}')
    items = documents(Found(path, path.name, 1), Settings("s", "MIT", None, Options()), Notes())
    assert len({item.id if isinstance(item, Drop) else item[0]["id"] for item in items}) == 4


@pytest.mark.parametrize("text", [b'{"text": "line"}', '{"text": "第一行"}'.encode()])
def test_a_packed_file_keeps_what_comes_before_the_damage(text: bytes, tmp_path: Path) -> None:
    whole = text + b"\n"
    lines = b"".join(whole.replace(b"line", b"line %d" % n).replace("行".encode(), b"%d" % n) for n in range(20_000))
    packed = gzip.compress(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found = fates(tmp_path / "a.jsonl.gz")
    assert len(found) > 5000
    assert found[-1] == "<broken-compression>"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_is_refused_and_repetitive_text_is_none(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zstandard

    monkeypatch.setattr(_packed, "_BOMB_BYTES", 2**20)
    pack = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    (tmp_path / f"bomb.txt{suffix}").write_bytes(pack(b"boom " * 4_000_000))
    assert fates(tmp_path / f"bomb.txt{suffix}") == ["<compression-bomb>"]
    logs = b"".join(b"10.0.0.%d GET /index.html 200 %d\n" % (n % 250, n) for n in range(60_000))
    (tmp_path / f"log.txt{suffix}").write_bytes(pack(logs))
    assert "<compression-bomb>" not in fates(tmp_path / f"log.txt{suffix}")


def test_reading_in_pieces_is_reading_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(NOISE * 40))
    with _packed.open_packed(tmp_path / "a.gz", ".gz") as whole, _packed.open_packed(tmp_path / "a.gz", ".gz") as parts:
        assert whole.read() == b"".join(iter(lambda: parts.read(1000), b"")) == NOISE * 40


def test_folders_nest_deeper_than_python_and_links_go_in_circles(
    make: Callable[..., Artifact], rows: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    root, here = tmp_path / "source", os.getcwd()
    root.mkdir()
    os.chdir(root)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("bottom.txt").write_text("at the very bottom")
    finally:
        os.chdir(here)
    (root / "self").symlink_to(".")
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    made = make(Load(source=str(root)))
    assert [row["text"] for row in rows(made)] == ["at the very bottom"]
    assert made.metrics["documents_dropped"] == 3


def test_names_that_are_no_utf8(make: Callable[..., Artifact], tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "source")
    os.makedirs(os.path.join(root, b"dir\xe9"))
    for name in (b"na\xefve.txt", b".hidden\xff", b"dir\xe9/x.txt"):
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"text in a file of a strange name")
    os.symlink(b"nowhere\xff", os.path.join(root, b"broken\xff"))
    made = make(Load(source=str(tmp_path / "source")))
    assert (made.metrics["documents_kept"], made.metrics["documents_dropped"]) == (2, 2)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s" / "locked").mkdir(parents=True)
    real = os.listdir

    def refuse(path: Any) -> list[str]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", refuse)
    missed = open_source(str(tmp_path / "s")).missed
    assert [(m.name, m.reason) for m in missed] == [("locked/", "unreadable")]


@pytest.mark.parametrize("label", ["zlib", "rot13", "hex", "base64", "idna", "unicode_escape", "utf-7", "a\0b"])
def test_what_is_no_charset_is_none(label: str) -> None:
    assert named_codec(label) == ""


def test_a_few_nuls_are_dirt_and_many_are_not() -> None:
    text = b"some words of a text, and some more " * 50
    assert detect(text + b"\0" + text).name == "utf-8"
    assert detect("some words".encode("utf-16-le") * 20).name == "utf-16-le"
    assert detect("一些中文的文字，".encode("utf-16-le") * 20).name == "utf-16-le"
    assert detect(bytes(64) + text).name == ""

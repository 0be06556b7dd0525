"""Readers against the standard library's writers, and every kind of damage: nothing may vanish without a record."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mojiang.data._formats import Notes, Options, Piece, Skip, bounded_lines, cut, kind_of, read_file
from mojiang.data._html import html_to_text


def read(path: Path, **options: Any) -> tuple[list[Piece], list[Skip], Notes]:
    notes = Notes()
    found = list(read_file(path, path.name, path.stat().st_size, Options(**options), notes))
    return [f for f in found if isinstance(f, Piece)], [f for f in found if isinstance(f, Skip)], notes


def texts(path: Path, **options: Any) -> list[str]:
    return [piece.text for piece in read(path, **options)[0]]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.jsonl", "a.csv", "a.html"])
def test_plain_and_compressed_give_the_same(tmp_path: Path, name: str, suffix: str) -> None:
    body = {"a.jsonl": '{"text": "你好"}\n', "a.csv": "text\n你好\n", "a.html": "<p>你好</p>"}.get(
        name, "你好"
    ).encode()
    packed = {"": body, ".gz": gzip.compress(body), ".zst": zstandard.compress(body)}[suffix]
    path = tmp_path / (name + suffix)
    path.write_bytes(packed)
    assert [text.strip() for text in texts(path)] == ["你好"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_archive_is_counted(tmp_path: Path, suffix: str) -> None:
    body = "".join(f"line {i}\n" for i in range(50_000)).encode()
    packed = gzip.compress(body) if suffix == ".gz" else zstandard.compress(body)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    pieces, skips, _ = read(path)
    assert [skip.reason for skip in skips] == ["broken-compression"]
    path.write_bytes(b"this is no archive at all")
    assert [skip.reason for skip in read(path)[1]] == ["broken-compression"]


@given(st.text(max_size=400), st.integers(4, 50), st.integers(1, 40))
def test_cutting_loses_nothing_and_keeps_the_limit(text: str, limit: int, block: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    blocks = iter([text[i : i + block] for i in range(0, len(text), block)])
    pieces = list(cut(blocks, limit, Notes()))
    assert "".join(piece for piece, _ in pieces) == text
    assert all(len(piece.encode()) <= limit for piece, _ in pieces)
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_large_text_is_cut_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i} 中文\n" for i in range(20_000)), encoding="utf-8")
    pieces = read(path, max_prose_bytes=5000)[0]
    assert "".join(p.text for p in pieces) == path.read_text(encoding="utf-8")
    assert all(p.text.endswith("\n") and len(p.text.encode()) <= 5000 for p in pieces)
    assert [p.part for p in pieces] == [str(i) for i in range(1, len(pieces) + 1)]


def test_a_long_line_is_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("字" * 100_000, encoding="utf-8")
    pieces, skips, notes = read(path, max_prose_bytes=10_000)
    assert "".join(p.text for p in pieces) == "字" * 100_000
    assert not skips
    assert notes.counts["lines longer than a document, cut"] == len(pieces) - 1


RECORDS = [{"text": "first\nline", "n": 1}, {"text": "第二", "licence": "MIT"}, {"text": 'quote " and , comma'}]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in RECORDS) + "\n\n")
    pieces, skips, _ = read(path)
    assert [(p.text, p.part, p.licence) for p in pieces] == [
        (r["text"], str(i), r.get("licence")) for i, r in enumerate(RECORDS, 1)
    ]
    assert not skips


def test_a_broken_json_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"\n[1]\n{"txt": "c"}\n"d"\n' + "[" * 100_000 + '\n{"text": "\\ud800"}\n')
    pieces, skips, _ = read(path)
    assert [p.text for p in pieces] == ["a", "d", "?"]
    assert [(s.reason, s.part) for s in skips] == [
        ("broken-json", "2"), ("missing-text-field", "3"), ("missing-text-field", "4"), ("broken-json", "6"),
    ]  # fmt: skip
    assert "has txt" in skips[2].detail


def test_a_record_line_beyond_the_limit_is_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "' + "x" * 5_000_000 + '"}\n{"text": "b"}\n')
    pieces, skips, _ = read(path, record_bytes=100_000)
    assert [p.text for p in pieces] == ["a", "b"]
    assert [(s.reason, s.part, s.bytes) for s in skips] == [("record-too-long", "2", 5_000_012)]


@pytest.mark.parametrize(
    "content",
    [json.dumps(RECORDS), json.dumps({"data": RECORDS, "n": 3}), "\n".join(map(json.dumps, RECORDS)), json.dumps(
        RECORDS, indent=4)],
)  # fmt: skip
def test_json_in_every_usual_shape(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    pieces, skips, _ = read(path)
    assert [p.text for p in pieces] == [r["text"] for r in RECORDS]
    assert not skips


def test_json_array_larger_than_a_block_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": f"{i} " * 2000} for i in range(500)]))
    assert path.stat().st_size > 3 * 2**20
    assert texts(path) == [f"{i} " * 2000 for i in range(500)]


@pytest.mark.parametrize("end", ["", ", ", ', {"text": "c'])
def test_a_json_array_that_stops_in_the_middle_is_reported(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, {"text": "b"}' + end)
    pieces, skips, _ = read(path)
    assert [p.text for p in pieces] == ["a", "b"]
    assert [s.reason for s in skips] == ["broken-json"]


def test_fields_are_joined_and_lists_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"title": "静夜思", "paragraphs": ["床前明月光", "疑是地上霜"]}]), encoding="utf-8")
    assert texts(path, text_fields=("title", "paragraphs")) == ["静夜思\n\n床前明月光\n疑是地上霜"]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv_against_the_standard_writer(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows({"id": i, "text": r["text"]} for i, r in enumerate(RECORDS))
    assert texts(path) == [r["text"] for r in RECORDS]


def test_csv_damage_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,a\n2,"b"x\n3,c\n4\n')
    pieces, skips, _ = read(path)
    assert [p.text for p in pieces] == ["a", "c"]
    assert [s.reason for s in skips] == ["broken-csv", "missing-text-field"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(1000)], "n": range(1000)}), path, row_group_size=300)
    assert texts(path) == [f"text {i}" for i in range(1000)]
    pq.write_table(pa.table({"body": ["x"]}), path)
    assert [(s.reason, s.detail) for s in read(path)[1]] == [("missing-text-field", "has body")]
    path.write_bytes(b"PAR1 but no more")
    assert [s.reason for s in read(path)[1]] == ["broken-parquet"]


def test_a_broken_parquet_keeps_what_can_be_read_and_counts_the_rest(tmp_path: Path) -> None:
    table = pa.table({"text": [f"record {i} with a text of its own: {i * 7919}" for i in range(3000)]})
    pq.write_table(table, tmp_path / "whole.parquet", row_group_size=300)
    data = (tmp_path / "whole.parquet").read_bytes()
    path = tmp_path / "a.parquet"
    path.write_bytes(data[: len(data) // 2])  # the directory is at the end
    pieces, skips, _ = read(path)
    assert (pieces, [(skip.reason, skip.bytes) for skip in skips]) == ([], [("broken-parquet", len(data) // 2)])
    generator = random.Random(1)
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(generator.randrange(1, 30)):
            damaged[generator.randrange(4, len(data) - 4000)] = generator.randrange(256)
        path.write_bytes(damaged)
        pieces, skips, _ = read(path)
        lost = 0
        for skip in skips:
            first, _, last = skip.part.partition("-")
            assert skip.reason in ("broken-parquet", "missing-text-field")
            lost += int(last or first) - int(first) + 1
        assert len(pieces) + lost == 3000


def test_html_keeps_headings_lists_code_and_tables() -> None:
    page = """<html><head><title>T</title><style>p {}</style></head><body><nav>menu</nav>
      <h2>标题 <em>one</em></h2><p>A   <b>bold</b>
      word.<br>Next</p><ul><li>x</li><li>y</li></ul><pre>def f():\n    return  1</pre>
      <table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>a|b</td></tr></table><script>var x</script></body></html>"""
    text = html_to_text(page)
    assert text.startswith("# T\n\n## 标题 one\n\nA bold word.\nNext\n")
    assert "- x\n- y\n" in text
    assert "```\ndef f():\n    return  1\n```" in text
    assert "| 1 | 2 |\n| --- | --- |\n| 3 | a\\|b |" in text
    assert not any(word in text for word in ("menu", "var x", "p {}"))


def test_deeply_nested_html_does_not_exhaust_the_stack() -> None:
    assert html_to_text("<div>" * 5000 + "deep" + "</div>" * 5000).strip() == "deep"


def test_binary_vanished_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)))
    assert [s.reason for s in read(path)[1]] == ["binary"]
    assert [s.reason for s in read_file(tmp_path / "gone.txt", "gone.txt", 5, Options(), Notes())] == ["vanished"]

    def refuse(*_: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mojiang.data._formats.open_packed", refuse)  # root may read everything, so a mode is no test
    assert [(s.reason, s.detail) for s in read(path)[1]] == [("unreadable", "Permission denied")]


def test_names() -> None:
    assert kind_of("Makefile") == ("code", "makefile", "")
    assert kind_of("a/b.TAR") == ("txt", None, "")
    assert kind_of("x.csv.gz") == ("csv", None, ".gz")


@pytest.mark.parametrize(("first", "language"), [("#!/usr/bin/env python3", "python"), ("#!/bin/sh", "shell")])
def test_a_script_without_extension_is_code(tmp_path: Path, first: str, language: str) -> None:
    path = tmp_path / "tool"
    path.write_text(first + "\necho\n")
    assert [(p.format, p.language) for p in read(path)[0]] == [("code", language)]


@given(st.text(alphabet="ab\n", max_size=80), st.integers(1, 9), st.integers(1, 9))
def test_bounded_lines_account_for_every_character(text: str, limit: int, block: int) -> None:
    found = list(bounded_lines(iter([text[i : i + block] for i in range(0, len(text), block)]), limit))
    true = io.StringIO(text).readlines()
    assert [len(line.rstrip("\n")) + left for line, left in found] == [len(line.rstrip("\n")) for line in true]
    assert all(line == original for (line, left), original in zip(found, true, strict=True) if not left)

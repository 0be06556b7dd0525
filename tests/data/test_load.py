"""data.load end to end: metadata, limits, errors, and memory that does not grow with the input."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, NotFound
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.data import _formats
from mojiang.data._documents import SCHEMA, document_id
from mojiang.data.load import Load

Make = Callable[[Any], Artifact]
Folder = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]


def test_every_document_has_its_metadata(make: Make, folder: Folder, rows: Rows) -> None:
    root = folder(
        {
            "LICENSE": "Permission is hereby granted, free of charge, to any person obtaining a copy of this",
            "zh.md": "# 标题\n\n这是一篇中文文章。\n",
            "en.txt": "A short English text.\n",
            "lib/f.py": "# SPDX-License-Identifier: Apache-2.0\nx = 1\n",
            "rows.jsonl": '{"text": "first record here"}\n{"text": "第二条记录", "licence": "CC0-1.0"}\n',
            "gbk.txt": "这个文件是用国标编码写的，读出来应该没有问题。".encode("gb18030"),
        }
    )
    found = {row["path"]: row for row in rows(make(Load(source=str(root))))}
    assert {(p, r["language"], r["format"], r["licence"]) for p, r in found.items()} == {
        ("LICENSE", "en", "txt", "MIT"),
        ("zh.md", "zh", "markdown", "MIT"),
        ("en.txt", "en", "txt", "MIT"),
        ("lib/f.py", "python", "code", "Apache-2.0"),
        ("rows.jsonl#1", "en", "jsonl", "MIT"),
        ("rows.jsonl#2", "zh", "jsonl", "CC0-1.0"),
        ("gbk.txt", "zh", "txt", "MIT"),
    }
    assert all(row["bytes"] == len(row["text"].encode()) and row["source"] == "source" for row in found.values())
    assert found["rows.jsonl#2"]["id"] == document_id("source", "rows.jsonl", "2")
    assert set(found["en.txt"]) == set(SCHEMA.names)


def test_configured_licence_and_language_fill_the_gaps(make: Make, folder: Folder, rows: Rows) -> None:
    made = make(Load(source=str(folder({"a.txt": "hello there"})), licence="CC-BY-4.0", language="nl"))
    assert [(row["licence"], row["language"]) for row in rows(made)] == [("CC-BY-4.0", "nl")]
    assert rows(make(Load(source=str(folder({"a.txt": "hello"})))))[0]["licence"] == "unknown"


def test_the_report_adds_up_and_names_the_damage(make: Make, folder: Folder) -> None:
    root = folder(
        {
            "good.txt": "good text\n",
            "broken.txt": "好的中文".encode() + b"\xff" + "更多".encode(),
            "image.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
            "empty.txt": "",
            "rows.jsonl": '{"text": "a record"}\n{"text": \n{"body": "x"}\n',
        }
    )
    made = make(Load(source=str(root)))
    report = Report.load(made.path)
    dropped = {str(row[0]): row[1] for row in report.table("dropped by reason").rows}
    assert dropped == {"binary": 1, "empty": 1, "broken-json": 1, "missing-text-field": 1}
    assert made.metrics["documents_in"] == 7
    assert made.metrics["documents_kept"] == 3
    for kind in ("documents", "bytes"):
        assert made.metrics[f"{kind}_in"] == made.metrics[f"{kind}_kept"] + made.metrics[f"{kind}_dropped"]
    for name in ("language", "format", "licence"):
        table = report.table(f"kept by {name}").rows
        assert sum(int(row[1] or 0) for row in table) == 3
        assert sum(int(row[2] or 0) for row in table) == made.metrics["bytes_kept"]
    said = " ".join(finding.text for finding in report.findings)
    assert "broken characters replaced by U+FFFD: 1" in said
    assert "1 not loaded: broken-json" in said


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ({}, "has no files", "give a folder"),
        ({"a.png": b"\x89PNG", "b.bin": bytes(100)}, "no readable text: 2 binary", "data.load reads"),
        ({"a.jsonl": '{"body": "x"}'}, "1 missing-text-field", "--text-fields"),
        ({"a.txt": " \n"}, "1 empty", "data.load reads"),
    ],
)
def test_sources_without_text_are_refused(
    make: Make, folder: Folder, files: dict[str, str | bytes], message: str, hint: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        make(Load(source=str(folder(files))))
    assert hint in caught.value.hint


def test_a_path_that_does_not_exist(make: Make) -> None:
    with pytest.raises(NotFound, match="/nowhere/at/all does not exist"):
        make(Load(source="/nowhere/at/all"))


def test_unreadable_and_vanishing_files_are_counted(
    make: Make, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder({"a.txt": "kept text", "locked.txt": "secret", "gone.txt": "gone"})
    real = _formats.open_packed

    def open_or_fail(path: Path, suffix: str) -> Any:
        if path.name == "locked.txt":
            raise PermissionError(13, "Permission denied")
        if path.name == "gone.txt":
            path.unlink()
        return real(path, suffix)

    monkeypatch.setattr(_formats, "open_packed", open_or_fail)
    report = Report.load(make(Load(source=str(root))).path)
    assert {str(r[0]): r[1] for r in report.table("dropped by reason").rows} == {"unreadable": 1, "vanished": 1}


def test_prose_in_one_file_becomes_enough_documents_and_code_stays_whole(
    make: Make, folder: Folder, rows: Rows
) -> None:
    novel = "".join(f"Chapter {i}. It was a dark and stormy night, the {i}th of its kind.\n\n" for i in range(8000))
    found = rows(make(Load(source=str(folder({"novel.txt": novel, "one.py": "x = 1\n" * 20_000})))))
    parts = [row["text"] for row in found if row["path"].startswith("novel.txt#")]
    assert 40 <= len(parts) <= 60
    assert "".join(parts) == novel
    assert [row["path"] for row in found if row["format"] == "code"] == ["one.py"]


def test_unchanged_tree_is_reused_and_a_changed_file_is_not(make: Make, folder: Folder) -> None:
    root = folder({"a.txt": "some text", "b.txt": "other text"})
    first = make(Load(source=str(root)))
    os.utime(root / "a.txt", (5, 5))
    assert make(Load(source=str(root))).ref == first.ref
    (root / "a.txt").write_text("some Text")
    assert make(Load(source=str(root))).fingerprint != first.fingerprint


def test_the_standard_library_on_a_process_pool(store: Store, rows: Rows) -> None:
    made = Load(source="python:stdlib").execute(store)
    found = {row["path"]: row for row in rows(made)}
    assert len(found) > 400
    assert {row["language"] for row in found.values()} == {"python"}
    source = Path(os.__file__).read_bytes()
    assert hashlib.sha256(found["os.py"]["text"].encode()).digest() == hashlib.sha256(source).digest()


PEAK = """
import resource, sys, mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.core.report import Report
from mojiang.data.dedup import Dedup
from mojiang.data.clean import Clean
from mojiang.data.load import Load
import json, charset_normalizer, py3langid, selectolax.lexbor, mojiang.data._mail, sqlalchemy.dialects.sqlite
try:
    import pandas, pyarrow.dataset, pyarrow.pandas_compat  # which pyarrow imports when pandas is there
except ModuleNotFoundError:
    pass
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) // 1024
base = peak()
store = mojiang.open(sys.argv[2])
here = Circumstance(engine=LocalEngine(workers=1))
made = execute(Load(source=sys.argv[1]), store, circumstance=here).artifact
if len(sys.argv) > 3:
    made = execute(Clean(data=made.ref), store, circumstance=here).artifact
    made = execute(Dedup(data=made.ref), store, circumstance=here).artifact
print(json.dumps({"grown": peak() - base, "changes": [r for t in Report.load(made.path).tables if t.title == "changes"
                  for r in t.rows], **made.metrics}))
"""


def peak(*words: str) -> dict[str, Any]:
    """Run the steps in a process of their own; `grown` is how many MiB it grew beyond its imports."""
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_line_of_200_megabytes_takes_little_memory(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "small.txt").write_text("a small file beside it")
    with open(source / name, "w") as file:
        for _ in range(200):
            file.write("word " * 200_000)
    answer = peak(str(source), str(tmp_path / "w"))
    assert answer["grown"] < 150
    assert answer["bytes_in"] == pytest.approx(200_000_022, abs=1)
    if name == "a.txt":
        assert answer["bytes_kept"] == answer["bytes_in"]
        assert [row[0] for row in answer["changes"]] == ["lines longer than a document, cut"]
    else:
        assert (answer["documents_kept"], answer["documents_dropped"]) == (1, 1)


@pytest.mark.slow
def test_memory_stays_bounded_when_the_corpus_is_large(tmp_path: Path) -> None:
    """240 MB through load, clean and dedup in less than 200 MB above what the imports take."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        with open(source / f"{number}.jsonl", "w") as file:
            for row in range(20_000):
                # Every tenth text of each file is the same in all three.
                key = row if row % 10 == 0 else f"{number}/{row}"
                file.write(json.dumps({"text": f"document {key} " + "some more text of it " * 190}) + "\n")
    size = sum(path.stat().st_size for path in source.iterdir())
    assert size > 236_000_000
    answer = peak(str(source), str(tmp_path / "w"), "all")
    assert answer["documents_in"] == 60_000
    assert answer["documents_dropped"] == 2 * 2_000
    assert answer["grown"] < 200

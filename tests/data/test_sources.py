"""What a source string stands for, against os.walk and the running interpreter; loops, pipes and links included."""

from __future__ import annotations

import os
import platform
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from mojiang.core.errors import BadInput, NotFound
from mojiang.data._sources import digest_of, open_source


def test_a_folder_in_sorted_order_with_what_is_passed_over(folder: Callable[..., Path]) -> None:
    root = folder({"b/2.txt": "x", "a.txt": "x", "b/1.txt": "x", ".git/HEAD": "x", "b/.hidden": "x",
                   "node_modules/m.js": "x", "env/pyvenv.cfg": "x", "env/lib/x.py": "x"})  # fmt: skip
    source = open_source(str(root))
    assert [file.name for file in source.files] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert {(m.name, m.reason) for m in source.missed} == {
        (".git/", "hidden"), ("b/.hidden", "hidden"), ("node_modules/", "generated"), ("env/", "generated"),
    }  # fmt: skip


def test_loops_links_and_pipes_end_and_are_counted(folder: Callable[..., Path]) -> None:
    root = folder({"a/1.txt": "x"})
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "broken").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe")
    source = open_source(str(root))
    assert [file.name for file in source.files] == ["a/1.txt"]
    assert {(m.name, m.reason) for m in source.missed} == {
        ("a/loop/", "folder-seen-before"), ("broken", "unreadable"), ("pipe", "not-a-file"),
    }  # fmt: skip


def test_a_name_that_is_not_utf8_can_be_stored(folder: Callable[..., Path]) -> None:
    root = folder({"a.txt": "x"})
    (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.txt"))).write_text("x")
    assert [file.name.encode() for file in open_source(str(root)).files] == [b"a.txt", b"caf\\udce9.txt"]


def test_the_digest_follows_content_and_names_but_not_times_or_place(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = folder({"a.txt": "one", "b.txt": "two"})
    before = digest_of(open_source(str(root)))
    os.utime(root / "a.txt", (1, 1))
    moved = root.rename(tmp_path / "elsewhere")
    assert digest_of(open_source(str(moved))) == before
    (moved / "a.txt").write_text("One")
    changed = digest_of(open_source(str(moved)))
    (moved / "a.txt").write_text("one")
    (moved / "a.txt").rename(moved / "c.txt")
    assert len({before, changed, digest_of(open_source(str(moved)))}) == 3


def test_wrong_sources() -> None:
    with pytest.raises(NotFound, match="/no/such/place does not exist"):
        open_source("/no/such/place")
    with pytest.raises(BadInput, match="no source 'python:stdlb'"):
        open_source("python:stdlb")
    with pytest.raises(BadInput, match="neither a file nor a folder"):
        open_source("/dev/null")


def test_stdlib_is_that_of_this_interpreter_without_tests() -> None:
    source = open_source("python:stdlib")
    assert source.name == f"python:stdlib {platform.python_version()}"
    assert source.licence == "PSF-2.0"
    names = {file.name for file in source.files}
    assert {"ast.py", "json/decoder.py", "asyncio/tasks.py", "venv/__init__.py"} <= names
    assert not [n for n in names if {"test", "tests", "idle_test", "site-packages"} & set(n.split("/"))]
    root = Path(sysconfig.get_path("stdlib"))
    truth = {
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, found in os.walk(root) for name in found if name.endswith(".py")
    }  # fmt: skip
    left_out = {n for n in truth if {"test", "tests", "idle_test", "site-packages"} & set(n.split("/"))}
    assert names == truth - left_out


def test_stdlib_is_found_from_inside_a_virtual_environment(tmp_path: Path) -> None:
    import subprocess
    import sys

    venv.create(tmp_path / "env", with_pip=False)
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    inside = subprocess.run(
        [tmp_path / "env/bin/python", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    base = Path(sys.base_prefix).resolve()
    assert base in Path(inside.strip()).resolve().parents

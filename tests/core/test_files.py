"""Files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from mojiang.core.errors import Unavailable
from mojiang.core.files import atomic_write, explained_os_errors, fsync_tree, list_files, sha256_file


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    atomic_write(target, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_sha256_is_sha256(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_list_and_flush_a_tree(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2", "b/1", "a"):
        (tmp_path / name).write_text(name)
    fsync_tree(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)] == ["a", "b/1", "b/2"]


@pytest.mark.parametrize(
    ("code", "said"), [(errno.ENOSPC, "disk is full while saving"), (errno.EACCES, "no permission while saving")]
)
def test_os_errors_are_explained(code: int, said: str) -> None:
    with pytest.raises(Unavailable, match=said) as caught, explained_os_errors("saving"):
        raise OSError(code, os.strerror(code), "file")
    assert caught.value.hint


def test_other_os_errors_pass() -> None:
    with pytest.raises(ConnectionResetError), explained_os_errors("saving"):
        raise ConnectionResetError

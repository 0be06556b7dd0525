"""Files that are whole or not there: write, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mojiang.core.errors import Unavailable


def fsync_dir(path: Path) -> None:
    """Make a rename inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(path: Path) -> None:
    """Flush every file and folder below `path` to the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        fsync_dir(Path(folder))


def atomic_write(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`: readers see the old file or the new one, never a part.

    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> atomic_write(target, "模匠")
    >>> target.read_text(encoding="utf-8")
    '模匠'
    """
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, sorted by its relative path."""
    yield from sorted(p for p in folder.rglob("*") if p.is_file())


def remove_tree(path: Path) -> None:
    """Delete a folder; one that is already gone is fine."""
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def explained_os_errors(doing: str) -> Iterator[None]:
    """Turn a full disk or a missing permission into an error that says what to do."""
    try:
        yield
    except Unavailable:
        raise
    except shutil.Error as error:
        # copytree gathers the failures of its files as text; the first says enough.
        reason = error.args[0][0][2] if error.args and error.args[0] else error
        raise Unavailable(f"copying failed while {doing}: {reason}", hint="free some space and try again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                f"the disk is full while {doing} ({error.filename or error})",
                hint="free some space (`mojiang gc` removes what nothing refers to) and give the same command again",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Unavailable(
                f"no permission while {doing}: {error.filename or error}",
                hint="check the owner and mode of that path, or choose another --workspace",
            ) from error
        raise

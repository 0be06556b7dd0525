"""What a source string stands for: the list of its files, what was left out, and a digest of the content."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mojiang.core.errors import BadInput, NotFound
from mojiang.core.files import sha256_file
from mojiang.data._licence import folder_licence

STDLIB: Final = "python:stdlib"
_GENERATED: Final = frozenset(("__pycache__", "node_modules", "site-packages", "dist-packages"))
_NOT_STDLIB: Final = frozenset(("test", "tests", "idle_test", *_GENERATED))


@dataclass(frozen=True)
class Found:
    """A file to read: where it is, its name relative to the source, its size, the licence of its folder."""

    path: Path
    name: str
    size: int
    licence: str | None = None
    origin: str = ""
    """The address it was fetched from."""
    fetched: str = ""
    """When that was, in ISO 8601."""

    @property
    def time(self) -> str:
        """When it was fetched, or else last changed."""
        if self.fetched:
            return self.fetched
        try:
            changed = self.path.stat().st_mtime
        except OSError:
            return ""  # reading it will say why
        return datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")

    def content_digest(self) -> str:
        """SHA-256 of the file, or "" for one that cannot be read."""
        try:
            return sha256_file(self.path)
        except OSError:
            return ""


@dataclass(frozen=True)
class Missed:
    """A file or folder that is not read, and why. A folder's name ends in a slash."""

    name: str
    reason: str
    detail: str
    bytes: int = 0


@dataclass
class Source:
    """The files of a source in a fixed order."""

    name: str
    files: list[Found] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    licence: str | None = None


def open_source(text: str) -> Source:
    """List what `text` stands for: a file, a folder or `python:stdlib`.

    Raises:
        NotFound: there is no such path.
        BadInput: it is neither a file nor a folder, or may not be read.
    """
    if text == STDLIB:
        return _stdlib()
    if re.fullmatch(r"[a-z]{2,}:[a-z]+", text):
        raise BadInput(f"there is no source {text!r}", hint=f"the built-in one is {STDLIB!r}; anything else is a path")
    path = Path(text).expanduser()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise NotFound(f"{text} does not exist", hint=f"give a file, a folder or {STDLIB}") from None
    except OSError as error:
        raise BadInput(f"{text} cannot be read: {error.strerror}", hint="check its permissions") from error
    source = Source(_printable(path.resolve().name or text))
    if stat.S_ISREG(mode):
        source.files.append(Found(path, _printable(path.name), path.stat().st_size, folder_licence(path.parent)))
    elif stat.S_ISDIR(mode):
        _walk(path, source)
    else:
        raise BadInput(f"{text} is neither a file nor a folder", hint="give a file or a folder")
    return source


def _walk(root: Path, source: Source) -> None:
    """List a folder in sorted order, each real folder once, so that a loop of symbolic links ends.

    Without recursion: folders nest deeper than Python does.
    """
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[Path, str, str | None]] = [(root, "", None)]
    while waiting:
        path, name, licence = waiting.pop()
        shown, is_folder = _printable(name), False
        try:
            info = path.stat()
            is_folder = stat.S_ISDIR(info.st_mode)
            names = sorted(os.listdir(path), reverse=True) if is_folder else []
        except OSError as error:
            lost = shown + "/" * is_folder if name else "./"
            source.missed.append(Missed(lost, "unreadable", error.strerror or str(error)))
            continue
        if name and (reason := _passed_over(path, path.name, is_folder)):
            size = 0 if is_folder else info.st_size
            source.missed.append(Missed(shown + "/" * is_folder, reason, "not entered" if is_folder else "", size))
        elif stat.S_ISREG(info.st_mode):
            source.files.append(Found(path, shown, info.st_size, licence))
        elif not is_folder:
            source.missed.append(Missed(shown, "not-a-file", "a pipe, socket or device"))
        elif (info.st_dev, info.st_ino) in seen:
            said = "a symbolic link to a folder that was read already"
            source.missed.append(Missed(f"{shown}/", "folder-seen-before", said))
        else:
            seen.add((info.st_dev, info.st_ino))
            licence = folder_licence(path) or licence
            waiting.extend((path / below, f"{name}/{below}" if name else below, licence) for below in names)


def _passed_over(path: Path, name: str, is_folder: bool) -> str:
    if name.startswith(".") or name in ("CVS", "_darcs"):
        return "hidden"
    if is_folder and (name in _GENERATED or (path / "pyvenv.cfg").exists()):
        return "generated"
    return ""


def _printable(name: str) -> str:
    """A name that is not valid UTF-8 keeps its readable part; Parquet can hold no other."""
    return name.encode("utf-8", "backslashreplace").decode()


def _stdlib() -> Source:
    # In a virtual environment this is still the base interpreter's library.
    root = Path(sysconfig.get_path("stdlib"))
    source = Source(f"{STDLIB} {platform.python_version()}", licence="PSF-2.0")

    def walk(folder: Path) -> Iterator[Path]:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if entry.name in _NOT_STDLIB or entry.name.startswith(".") or (path / "pyvenv.cfg").exists():
                    # Counted like any other folder that is not entered, or the books would hide what was left out.
                    name = path.relative_to(root).as_posix() + "/"
                    reason = "generated" if entry.name in _GENERATED else "tests"
                    source.missed.append(Missed(name, reason, "not entered"))
                else:
                    yield from walk(path)
            elif entry.name.endswith(".py") and entry.is_file():
                yield path

    for path in walk(root):
        source.files.append(Found(path, path.relative_to(root).as_posix(), path.stat().st_size))
    if not source.files:
        raise BadInput(
            f"this Python has no standard library sources in {root}",
            hint="some systems ship it compiled or zipped; use another Python, or give a folder of text",
        )
    return source


def digest_of(source: Source) -> str:
    """SHA-256 over the relative names and contents of the files, and over what was left out.

    A file that cannot be read counts by its name alone: loading will say so.
    """
    total = hashlib.sha256()
    for file in source.files:
        try:
            content = sha256_file(file.path)
        except OSError as error:
            content = f"unreadable {error.errno}"
        total.update(f"{file.name}\0{content}\0{file.licence}\n".encode())
    for missed in source.missed:
        total.update(f"{missed.name}\0{missed.reason}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()

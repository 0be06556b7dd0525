"""What has been fetched of a remote source so far: whole files, and a journal that says what comes next.

A chunk is written whole (temporary file, rename) before the journal has its line, so that a kill at any moment costs
at most the chunk that was under way: it is fetched again under the same name.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mojiang.core.errors import BadInput, BadUsage
from mojiang.core.files import atomic_write
from mojiang.data._sources import Found

CHUNK_ROWS: Final = 1000
_JOURNAL: Final = "journal.jsonl"
_WEB: Final = ("http://", "https://")


@dataclass(frozen=True)
class Chunk:
    """A file of the snapshot, and from where to go on after it (None: this was the last)."""

    name: str
    origin: str
    time: str
    next: Any


class Snapshot:
    """A folder of fetched files.

    >>> import tempfile
    >>> shot = Snapshot(Path(tempfile.mkdtemp())); shot.add([{"text": "a"}], "http://x/1", "http://x/2")
    >>> Snapshot(shot.folder).next, Snapshot(shot.folder).done
    ('http://x/2', False)
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.chunks: list[Chunk] = []
        self._torn = False
        if (folder / _JOURNAL).exists():
            for line in (folder / _JOURNAL).read_text(encoding="utf-8").splitlines():
                try:
                    self.chunks.append(Chunk(**json.loads(line)))
                except (ValueError, TypeError):
                    self._torn = True  # a kill in the middle of the last line
                    break

    @property
    def done(self) -> bool:
        """Whether everything is here."""
        return bool(self.chunks) and self.chunks[-1].next is None

    @property
    def next(self) -> Any:
        """Where to go on; None at the beginning."""
        return self.chunks[-1].next if self.chunks else None

    def add(self, rows: Iterable[Any], origin: str, next: Any) -> None:
        """Keep these rows and, after them, where to go on."""
        name = f"rows-{len(self.chunks) + 1:06d}.jsonl"
        lines = (json.dumps(row, ensure_ascii=False, default=plain) + "\n" for row in rows)
        atomic_write(self.folder / name, "".join(lines).encode("utf-8", "replace"))
        self.note(name, origin, next)

    def note(self, name: str, origin: str, next: Any) -> None:
        """A file of this name is whole."""
        chunk = Chunk(name, origin, now(), next)
        if self._torn:  # the line that a kill cut goes, or everything after it would be unreadable
            lines = (json.dumps(asdict(known), ensure_ascii=False) + "\n" for known in self.chunks)
            atomic_write(self.folder / _JOURNAL, "".join(lines))
            self._torn = False
        with open(self.folder / _JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(chunk), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.chunks.append(chunk)

    def restart(self) -> None:
        """Forget everything."""
        for path in self.folder.iterdir():
            path.unlink()
        self.chunks.clear()

    def files(self, licence: str | None = None) -> list[Found]:
        """The files that hold something, in order."""
        found = []
        for chunk in self.chunks:
            path = self.folder / chunk.name
            if size := path.stat().st_size:
                found.append(Found(path, chunk.name, size, licence, chunk.origin, chunk.time))
        return found


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain(value: Any) -> Any:
    """A value that JSON does not have, as text."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("utf-8", "replace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def from_environment(text: str) -> str:
    """`$NAME` replaced by that environment variable, so that no secret stands in a config.

    Raises:
        BadUsage: the variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise BadUsage(f"the environment variable {name} is not set", hint=f"export {name}=… and try again")
        return os.environ[name]

    return re.sub(r"\$([A-Z_][A-Z0-9_]*)", value, text)


def is_remote(source: str) -> bool:
    """Whether a source is an address, a database or a data set of the Hub, and no path."""
    return source.startswith("hf:") or re.match(r"[a-z][a-z0-9+]*://", source) is not None


def is_web(source: str) -> bool:
    """Whether a source is fetched by HTTP."""
    return source.startswith(_WEB)


def refuse_passwords(source: str) -> None:
    """A password in an address would stand in every manifest.

    Raises:
        BadInput: there is one that is no `$NAME`.
    """
    password = urlsplit(source).password if "://" in source else None
    if password and not re.fullmatch(r"\$[A-Z_][A-Z0-9_]*", password):
        shown = source.replace(f":{password}@", ":$PASSWORD@")
        raise BadInput(
            "the source holds a password, which would be kept with the dataset",
            hint=f"put it into an environment variable and write '{shown}'",
        )


class Pace:
    """So many requests a second, and a wait that Ctrl-C ends."""

    def __init__(self, per_second: float, check_stop: Callable[[], None]) -> None:
        self._gap, self._check, self._last = 1 / per_second, check_stop, 0.0

    def turn(self) -> None:
        """Wait until it is time for the next request."""
        self.wait(self._last + self._gap - time.monotonic())
        self._last = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep, but stop when asked to."""
        end = time.monotonic() + seconds
        while True:
            self._check()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.2))


def name_of(source: str) -> str:
    """A source's address without user, password and parameters that may be secret."""
    if source.startswith("hf:"):
        return source
    parts = urlsplit(source)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def at_path(value: Any, path: str) -> Any:
    """What lies at `a.b.0` in nested JSON, or None.

    >>> at_path({"a": [{"b": 1}]}, "a.0.b"), at_path({"a": 1}, "a.b")
    (1, None)
    """
    for key in path.split(".") if path else ():
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value

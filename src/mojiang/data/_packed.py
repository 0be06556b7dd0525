"""Compressed files as streams that say so when they end too early, or unpack to more than any text packs to."""

from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import zstandard

COMPRESSED: Final = (".gz", ".zst")
_BOMB_BYTES: Final = 256 * 2**20  # less is no danger
_BOMB_RATIO: Final = 200  # of text, repetitive logs come to 50; a bomb to 1,000 and more


class Bomb(OSError):
    """A file unpacks to more than can be meant."""


def open_packed(path: Path, suffix: str) -> BinaryIO:
    """The content of a file as a stream, unpacked as its suffix says.

    Reading raises what the format raises on damage, EOFError where the end is missing, and `Bomb`.
    """
    if suffix == ".gz":
        return cast(BinaryIO, _Gzip(path))
    if suffix == ".zst":
        return io.BufferedReader(_Frames(path), 1 << 18)
    return open(path, "rb")


@contextmanager
def on_disk(path: Path, unpack: Callable[[Path], BinaryIO] | None) -> Iterator[Path]:
    """The file itself, or what it unpacks to in a temporary file, for formats that are read from their end."""
    if unpack is None:
        yield path
        return
    with tempfile.NamedTemporaryFile() as spool, unpack(path) as stream:
        while block := stream.read(1 << 20):
            spool.write(block)
        spool.flush()
        yield Path(spool.name)


def _refuse_bomb(unpacked: int, packed: int) -> None:
    if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * packed:
        raise Bomb(f"{packed:,} bytes unpack to more than {unpacked:,}")


class _Gzip(gzip.GzipFile):
    """A .gz file unpacked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, or all of them."""
        parts: list[bytes] = []
        left = float("inf") if size is None or size < 0 else size
        try:
            while left and (part := super().read1(int(min(left, 1 << 17)))):
                self._look()
                parts.append(part)
                left -= len(part)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            if not parts:
                raise
            return b"".join(parts)  # what came before the damage; the next call meets it again
        return b"".join(parts)

    def readline(self, size: int | None = -1) -> bytes:
        """A line, or so many bytes of it."""
        line: bytes = super().readline(-1 if size is None else size)
        self._look()
        return line

    def _look(self) -> None:
        # What is read of the file is ahead of what is unpacked by a buffer: in doubt it is no bomb.
        if (unpacked := self.tell()) > _BOMB_BYTES:
            _refuse_bomb(unpacked, cast(BinaryIO, self.fileobj).tell())


class _Frames(io.RawIOBase):
    """A .zst file unpacked; unlike zstandard's own reader it says so when the last frame is not whole."""

    _STEP: Final = 2048  # bytes unpacked at a time; a hostile file makes tens of thousands of each

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._fed = False
        self._held = memoryview(b"")
        self._unpacked = 0
        self.fileobj = self._file

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something; 0 at the end."""
        while not self._held:
            data = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(self._STEP)
            if not data:
                if self._fed and not self._frame.eof:
                    raise EOFError("the last frame is not whole")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._held, self._fed = memoryview(self._frame.decompress(data)), True
            self._unpacked += len(self._held)
            _refuse_bomb(self._unpacked, self._file.tell())
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        return size

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()

"""General-purpose compressors as baselines: what a byte costs without having seen any training text."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable

import zstandard


def _gzip(data: bytes) -> int:
    return len(gzip.compress(data, compresslevel=9, mtime=0))


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9))


def _zstd(data: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=19).compress(data))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {"gzip": _gzip, "xz": _xz, "zstd": _zstd}
LEVELS = {"gzip": "gzip -9", "xz": "xz -9", "zstd": "zstd -19"}


def compressed_bits(name: str, data: bytes) -> int:
    """Bits of `data` compressed alone, container headers included, as `gzip -9`, `xz -9` or `zstd -19` would write it.

    >>> compressed_bits("gzip", b"a" * 1000) < 8 * 1000
    True
    """
    return 8 * COMPRESSORS[name](data)

"""Token shards behind a URL: parts of files by range requests, compared with their checksums, a few kept in memory.

Whatever fsspec opens will do: s3://, gs://, https:// from any server that answers range requests, memory:// in tests.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mojiang.core.errors import Corrupted, NotFound, Unavailable
from mojiang.tokenizer._pack import BLOCK_BYTES, checksum

KEPT_BLOCKS: Final = 64  # in memory, of all files of a folder together
ATTEMPTS: Final = 3
_WAIT_SECONDS: Final = 0.5


class RemoteFolder:
    """A folder of shards behind a URL.

    Raises:
        Unavailable: the package for this kind of URL is missing, or the server does not answer.
        NotFound: there is no such file.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            self.files, self.path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise Unavailable(
                f"reading {protocol}:// needs a package that is not installed: {error}",
                hint="pip install 'mojiang[remote]' for https://; s3:// needs s3fs, gs:// gcsfs (see fsspec's list)",
            ) from error
        except ValueError as error:
            raise Unavailable(f"{self.url} cannot be opened: {error}", hint="use s3://, gs:// or https://") from error
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def read(self, name: str) -> bytes:
        """A whole small file."""
        return self.part(name, None, None)

    def array(self, name: str, dtype: np.dtype[Any], size: int, sums: list[str] | None) -> RemoteArray:
        """A file as an array of `size` numbers, of which only what is asked for is fetched."""
        if sums is None or len(sums) != -(-size * dtype.itemsize // BLOCK_BYTES):
            raise Corrupted(f"{self.url}/{name} has no checksums", hint="make the shards again with this version")
        return RemoteArray(self, name, dtype, size, sums)

    def part(self, name: str, start: int | None, stop: int | None) -> bytes:
        """Bytes [start, stop) of a file; a request that fails is repeated."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found: bytes = self.files.cat_file(f"{self.path}/{name}", start=start, end=stop)
                return found
            except FileNotFoundError:
                raise NotFound(f"there is no {self.url}/{name}", hint="check the URL and the rights") from None
            except Exception as error:  # each filesystem has exceptions of its own
                if attempt == ATTEMPTS:
                    said = f"{type(error).__name__}: {error}"
                    raise Unavailable(f"{self.url}/{name} cannot be read: {said}", hint="try again later") from error
                time.sleep(_WAIT_SECONDS * attempt)
        raise AssertionError("unreachable")

    def blocks(self, name: str, first: int, stop: int, sums: list[str]) -> list[bytes]:
        """Blocks [first, stop) of a file, those that are not in memory fetched in one request and compared.

        Raises:
            Corrupted: a block differs from its checksum, also when it is fetched again.
        """
        missing = [block for block in range(first, stop) if (name, block) not in self._kept]
        fetched = self._fetch(name, missing[0], missing[-1] + 1, sums) if missing else {}
        found = [fetched[block] if block in fetched else self._kept[name, block] for block in range(first, stop)]
        for block, data in zip(range(first, stop), found, strict=True):
            self._kept[name, block] = data
            self._kept.move_to_end((name, block))
        while len(self._kept) > KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return found

    def _fetch(self, name: str, first: int, stop: int, sums: list[str]) -> dict[int, bytes]:
        wrong = 0
        for _ in range(2):
            data = memoryview(self.part(name, first * BLOCK_BYTES, stop * BLOCK_BYTES))
            parts = {
                block: bytes(data[(block - first) * BLOCK_BYTES : (block - first + 1) * BLOCK_BYTES])
                for block in range(first, stop)
            }
            different = [block for block, part in parts.items() if checksum(part) != sums[block]]
            if not different:
                return parts
            wrong = different[0]
        raise Corrupted(
            f"block {wrong} of {self.url}/{name} differs from its checksum", hint="copy the shards there again"
        )


class RemoteArray:
    """Numbers in a file behind a URL; a slice of it is an array."""

    def __init__(self, folder: RemoteFolder, name: str, dtype: np.dtype[Any], size: int, sums: list[str]) -> None:
        self.folder, self.name, self.dtype, self.size, self.sums = folder, name, dtype, size, sums

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, _ = part.indices(self.size)
        if stop <= start:
            return np.zeros(0, self.dtype)
        low, high = start * self.dtype.itemsize, stop * self.dtype.itemsize
        first, last = low // BLOCK_BYTES, -(-high // BLOCK_BYTES)
        data = b"".join(self.folder.blocks(self.name, first, last, self.sums))
        return np.frombuffer(data[low - first * BLOCK_BYTES : high - first * BLOCK_BYTES], self.dtype)

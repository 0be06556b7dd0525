"""Token shards on disk and their layout into rows: every document whole, no document visible to another.

Two separate things, so that the expensive one is done once:

    shards   all documents as one long run of tokens per file (uint16 where the vocabulary allows), memory-mapped,
             with an index of where each sequence starts and how many bytes of text it stands for, and a checksum of
             every block, so that part of a shard can be read from a URL and trusted (see `_remote`)
    layout   which stretch of which sequence stands where in which row; computed in memory for a row length

A sequence longer than a row continues in another row; nothing is cropped. Remainders are placed by best-fit
decreasing (Johnson 1974), which in practice leaves less than 2 % of the positions empty.

Tensor names: B rows · T positions · N spans (row, start, stop) of one document each
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mojiang.core.errors import Corrupted, MojiangError
from mojiang.core.files import atomic_write

IGNORE = -100
"""Target of a position that is not trained on, as in `torch.nn.functional.cross_entropy`."""

FORMAT = 2
READS = (1, 2)
"""Formats that can be read; 1 had no checksums."""
BLOCK_BYTES = 2**20
"""Of a shard's file, what one checksum is of."""
SHARD_TOKENS = 128 * 2**20

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sequence:
    """Tokens that belong together (a document, a conversation), as they enter a shard."""

    tokens: NDArray[Any]
    num_bytes: int
    """UTF-8 bytes of the text it stands for; 0 where bits per byte would mean nothing."""
    trained: NDArray[np.bool_] | None = None
    """Which tokens are trained on as targets; None for all (the first token is never a target)."""


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows."""

    tokens_BT: Ints
    targets_BT: Ints
    """The next token, or `IGNORE`."""
    positions_BT: Ints
    """Positions within the document's stretch, from 0."""
    spans_N3: Ints
    """Row, start and stop of each document's stretch; every row has the same number of slots, empty ones start = stop,
    so that batches of one shape need one compiled graph."""

    @property
    def num_targets(self) -> int:
        """Positions that are trained on."""
        return int((self.targets_BT != IGNORE).sum())

    def __len__(self) -> int:
        return len(self.tokens_BT)

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token."""
        return int((self.spans_N3[:, 2] - self.spans_N3[:, 1]).sum())

    def take(self, rows: Ints | list[int] | range) -> Rows:
        """The rows of these numbers, their spans renumbered."""
        chosen = np.asarray(rows, np.int64)
        spans = self.spans_N3.reshape(len(self), -1, 3)[chosen].copy()
        spans[:, :, 0] = np.arange(len(chosen))[:, None]
        arrays = (self.tokens_BT, self.targets_BT, self.positions_BT)
        tokens, targets, positions = (array[chosen] for array in arrays)
        return Rows(tokens, targets, positions, spans.reshape(-1, 3))

    def micro(self, budget: int) -> Iterator[list[int]]:
        """Row numbers of equal micro-batches of at most `budget` positions (but at least a row): one shape for all."""
        most = max(1, min(len(self), budget // self.tokens_BT.shape[1]))
        size = max(size for size in range(1, most + 1) if len(self) % size == 0)
        for first in range(0, len(self), size):
            yield list(range(first, first + size))

    @staticmethod
    def stacked(above: Rows, below: Rows) -> Rows:
        """The rows of both, `below` under `above`."""
        per_row = [len(rows.spans_N3) // len(rows.tokens_BT) for rows in (above, below)]
        spans = [_resized(rows.spans_N3, len(rows.tokens_BT), max(per_row)) for rows in (above, below)]
        spans[1] = spans[1] + np.array([len(above.tokens_BT), 0, 0])
        tokens, targets, positions = (
            np.concatenate([getattr(above, name), getattr(below, name)])
            for name in ("tokens_BT", "targets_BT", "positions_BT")
        )
        return Rows(tokens, targets, positions, np.concatenate(spans))

    @property
    def documents_BT(self) -> Ints:
        """Number of the document at each position, from 1; empty positions are 0."""
        documents = np.zeros_like(self.tokens_BT)
        for number, (row, start, stop) in enumerate(self.spans_N3.tolist(), 1):
            documents[row, start:stop] = number  # an empty slot changes nothing
        return documents


def _resized(spans_N3: Ints, num_rows: int, per_row: int) -> Ints:
    old = spans_N3.reshape(num_rows, -1, 3)
    resized = np.zeros((num_rows, per_row, 3), np.int64)
    resized[:, :, 0] = np.arange(num_rows)[:, None]
    resized[:, : old.shape[1]] = old
    return resized.reshape(-1, 3)


KINDS = ("bin", "mask")
"""The files of a shard: its tokens, and which of them are trained on."""


def checksum(block: bytes | bytearray | memoryview) -> str:
    """Of a block of a shard's file, as hex."""
    return hashlib.blake2b(block, digest_size=8).hexdigest()


class _Checked:
    """A file that is written from beginning to end, and the checksums of its blocks."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by whoever writes shards)
        self._block = bytearray()
        self._sums: list[str] = []

    def write(self, data: bytes) -> None:
        """Append."""
        self._block += data
        whole = len(self._block) // BLOCK_BYTES * BLOCK_BYTES
        for start in range(0, whole, BLOCK_BYTES):
            self._sums.append(checksum(memoryview(self._block)[start : start + BLOCK_BYTES]))
        if whole:
            self._file.write(self._block[:whole])
            self._block = self._block[whole:]

    def close(self) -> list[str]:
        """Put the file on the disk; the checksums of its blocks."""
        if self._block:
            self._sums.append(checksum(self._block))
            self._file.write(self._block)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._sums


class ShardWriter:
    """Append sequences to token shards in `folder`; holds one sequence at a time.

    The index is written last, by `close`: a folder without it was not finished, and is written anew.
    """

    def __init__(self, folder: Path, vocab_size: int, shard_tokens: int = SHARD_TOKENS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.vocab_size, self.shard_tokens = folder, vocab_size, shard_tokens
        self.dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self.masked = False
        self.shards: list[dict[str, Any]] = []
        self._lengths: list[int] = []
        self._bytes: list[int] = []
        self._files: list[_Checked] = []

    def add(self, sequence: Sequence) -> None:
        """Append a sequence; one of fewer than two tokens predicts nothing and is passed over."""
        length = len(sequence.tokens)
        if length < 2:
            return
        if not self.shards or self.shards[-1]["tokens"] + length > self.shard_tokens:
            self._next_shard()
        self._files[0].write(np.asarray(sequence.tokens, self.dtype).tobytes())
        if sequence.trained is not None:
            self.masked = True
            self._files[1].write(np.asarray(sequence.trained, np.uint8).tobytes())
        self._lengths.append(length)
        self._bytes.append(sequence.num_bytes)
        shard = self.shards[-1]
        for name, value in (("sequences", 1), ("tokens", length), ("bytes", sequence.num_bytes)):
            shard[name] += value

    def close(self) -> None:
        """Write the index; from now on the shards count."""
        self.release()
        with open(self.folder / "sequences.npy", "wb") as file:
            np.save(file, np.array([self._lengths, self._bytes], np.int64))
            file.flush()
            os.fsync(file.fileno())
        index = {
            "format": FORMAT, "dtype": self.dtype.name, "masked": self.masked, "vocab_size": self.vocab_size,
            "shards": self.shards,
        }  # fmt: skip
        atomic_write(self.folder / "index.json", json.dumps(index, indent=1))

    def release(self) -> None:
        """Close the files without making the shards count."""
        for file, kind in zip(self._files, KINDS, strict=False):
            self.shards[-1]["blocks"][kind] = file.close()
        self._files = []

    def _next_shard(self) -> None:
        self.release()
        name = f"tokens-{len(self.shards):05d}"
        self.shards.append({"file": name, "sequences": 0, "tokens": 0, "bytes": 0, "blocks": {}})
        self._files = [_Checked(self.folder / f"{name}.{kind}") for kind in KINDS]


def write_shards(
    sequences: Iterable[Sequence], folder: Path, vocab_size: int, shard_tokens: int = SHARD_TOKENS
) -> Shards:
    """Write all sequences to token shards below `folder` and open them."""
    writer = ShardWriter(folder, vocab_size, shard_tokens)
    try:
        for sequence in sequences:
            writer.add(sequence)
        writer.close()
    finally:
        writer.release()
    return Shards(folder)


class LocalFolder:
    """A folder of shards on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """A whole small file."""
        return (self.path / name).read_bytes()

    def array(self, name: str, dtype: np.dtype[Any], size: int, sums: list[str] | None) -> Any:
        """A file as an array of `size` numbers, memory-mapped."""
        path = self.path / name
        if path.stat().st_size != size * dtype.itemsize:
            raise ValueError(f"{name} has {path.stat().st_size} bytes, not {size * dtype.itemsize}")
        return np.memmap(path, dtype, "r")


class Shards:
    """Token shards of one split: memory-mapped from a folder, or read in parts from a URL (s3://, https://, …).

    Raises:
        Corrupted: a file is missing or has another size than the index says; from a URL, a checksum differs.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = where
        folder: Any = where
        if isinstance(where, str) and "://" in where:
            from mojiang.tokenizer._remote import RemoteFolder

            folder = RemoteFolder(where)
        else:
            folder = LocalFolder(Path(where))
        try:
            index = json.loads(folder.read("index.json"))
            if index["format"] not in READS:
                raise ValueError(f"format {index['format']}, this version reads {READS}")
            lengths, self.bytes_of = np.load(io.BytesIO(folder.read("sequences.npy")))
            dtype = np.dtype(index["dtype"])
            self._tokens, self._masks = [], []
            for shard in index["shards"]:
                sums = shard.get("blocks", {})
                self._tokens.append(folder.array(f"{shard['file']}.bin", dtype, shard["tokens"], sums.get("bin")))
                if index["masked"]:
                    mask = folder.array(f"{shard['file']}.mask", np.dtype(np.uint8), shard["tokens"], sums.get("mask"))
                    self._masks.append(mask)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, MojiangError):
                raise
            raise Corrupted(f"token shards in {where} cannot be read: {error}", hint="run the step again") from error
        self.lengths: Ints = lengths
        self.shards: list[dict[str, Any]] = index["shards"]
        self._shard_of = np.repeat(np.arange(len(self.shards)), [s["sequences"] for s in self.shards])
        within = [
            np.cumsum(part) - part for part in np.split(lengths, np.cumsum([s["sequences"] for s in self.shards])[:-1])
        ]
        self._starts = np.concatenate(within) if self.shards else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def verify(self) -> None:
        """Read everything and compare it with its checksums; those of a URL are compared whenever they are read.

        Raises:
            Corrupted: a block differs.
        """
        for number, shard in enumerate(self.shards):
            for kind, arrays in zip(KINDS, (self._tokens, self._masks), strict=True):
                for block, expected in enumerate(shard.get("blocks", {}).get(kind, []) if arrays else []):
                    step = BLOCK_BYTES // arrays[number].dtype.itemsize
                    found = checksum(arrays[number][block * step : (block + 1) * step].tobytes())
                    if found != expected:
                        name = f"{shard['file']}.{kind}"
                        raise Corrupted(f"block {block} of {name} in {self.where} differs from its checksum",
                                        hint="run the step again, or copy the shards again")  # fmt: skip

    @cached_property
    def num_targets(self) -> int:
        """Positions that predict something, trained or not: one less than each sequence's tokens."""
        return int((self.lengths - 1).sum())

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of text all sequences stand for."""
        return int(self.bytes_of.sum())

    @cached_property
    def num_text_bytes(self) -> int:
        """Bytes of text, those of rearranged documents estimated by the others' bytes per token."""
        counted = self.bytes_of > 0
        if not counted.any():
            return int(2 * self.lengths.sum())
        per_token = self.num_bytes / self.lengths[counted].sum()
        return int(self.num_bytes + per_token * self.lengths[~counted].sum())

    def sequence(self, number: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Tokens of a sequence, and which of them are trained on as targets."""
        return self.stretch(number, 0, int(self.lengths[number]))

    def stretch(self, number: int, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Tokens [start, stop) of a sequence, and which of them are trained on."""
        shard, base = int(self._shard_of[number]), int(self._starts[number])
        tokens = self._tokens[shard][base + start : base + stop]
        if not self._masks:
            return tokens, np.ones(len(tokens), bool)
        return tokens, self._masks[shard][base + start : base + stop].astype(bool)


def best_fit_decreasing(sizes: Ints, capacity: int) -> list[list[int]]:
    """Bins of item numbers with sizes summing to at most `capacity`: each item where it leaves the least room.

    Deterministic: larger items first, equal ones in their order.

    >>> best_fit_decreasing(np.array([3, 5, 2, 4, 1]), 5)
    [[1], [3, 4], [0, 2]]
    """
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms: list[int] = []  # the sizes of room there are, sorted
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        at = bisect.bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms[at]
            number = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(at)
            bins[number].append(item)
        else:
            room, number = capacity, len(bins)
            bins.append([item])
        if room - size > 0:
            if not with_room[room - size]:
                bisect.insort(rooms, room - size)
            with_room[room - size].append(number)
    return bins


class PackedRows:
    """Shards laid out in rows of `row_tokens` positions; with `chosen`, only the sequences of these numbers."""

    def __init__(self, shards: Shards, row_tokens: int, chosen: Ints | None = None) -> None:
        self.shards, self.row_tokens = shards, row_tokens
        targets = shards.lengths - 1
        if chosen is not None:
            targets = np.where(np.isin(np.arange(len(shards)), chosen), targets, 0)
        self.num_targets = int(targets.sum())
        self.num_bytes = int(shards.bytes_of[targets > 0].sum())
        full = targets // row_tokens
        whole_numbers = np.repeat(np.arange(len(shards)), full)
        whole_starts = (np.arange(len(whole_numbers)) - np.repeat(np.cumsum(full) - full, full)) * row_tokens
        rest_numbers = np.flatnonzero(targets % row_tokens)
        rest_starts, rest_sizes = (full * row_tokens)[rest_numbers], (targets % row_tokens)[rest_numbers]
        bins = best_fit_decreasing(rest_sizes, row_tokens)
        order = np.array([item for row in bins for item in row], np.int64)
        # Stretches of all rows, one after the other: (sequence, first input token, number of inputs).
        self._numbers = np.concatenate([whole_numbers, rest_numbers[order]])
        self._begins = np.concatenate([whole_starts, rest_starts[order]])
        self._sizes = np.concatenate([np.full(len(whole_numbers), row_tokens), rest_sizes[order]])
        per_row = np.concatenate([np.ones(len(whole_numbers), np.int64), [len(row) for row in bins]]).astype(np.int64)
        self._row_starts = np.concatenate([[0], np.cumsum(per_row)])
        self.spans_per_row = int(per_row.max()) if len(per_row) else 1

    def __len__(self) -> int:
        return len(self._row_starts) - 1

    @property
    def token_use(self) -> float:
        """Share of all positions that hold a token."""
        return self.num_targets / max(1, len(self) * self.row_tokens)

    def rows(self, numbers: Iterable[int]) -> Rows:
        """The rows of these numbers as one batch; a negative number is an empty row (to fill a last batch)."""
        wanted = list(numbers)
        shape = (len(wanted), self.row_tokens)
        tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        targets = np.full(shape, IGNORE, np.int64)
        spans = np.zeros((len(wanted), self.spans_per_row, 3), np.int64)
        for row, number in enumerate(wanted):
            at = 0
            spans[row, :, 0] = row
            pieces = range(*self._row_starts[number : number + 2].tolist()) if number >= 0 else ()
            for slot, piece in enumerate(pieces):
                begin, size = int(self._begins[piece]), int(self._sizes[piece])
                stretch, trained = self.shards.stretch(int(self._numbers[piece]), begin, begin + size + 1)
                stop = at + size
                tokens[row, at:stop] = stretch[:-1]
                targets[row, at:stop] = np.where(trained[1:], stretch[1:].astype(np.int64), IGNORE)
                positions[row, at:stop] = np.arange(size)
                spans[row, slot] = (row, at, stop)
                at = stop
        return Rows(tokens, targets, positions, spans.reshape(-1, 3))

    def batches(self, batch_rows: int) -> Iterator[Rows]:
        """All rows in order, the last batch filled up with empty rows."""
        for first in range(0, len(self), batch_rows):
            yield self.rows(n if n < len(self) else -1 for n in range(first, first + batch_rows))


def sample_of(shards: Shards, num_tokens: int) -> Ints:
    """Numbers of sequences drawn evenly, of about so many tokens together: always the same ones."""
    order = keyed_order(len(shards), 0, 0)
    enough = int(np.searchsorted(np.cumsum(shards.lengths[order]), num_tokens)) + 1
    return order[:enough]


def keyed_order(num_rows: int, seed: int, epoch: int) -> Ints:
    """The order of rows in an epoch: a permutation that depends on (seed, epoch) only, the same on every machine.

    Rows are sorted by a keyed hash (SplitMix64 finaliser), so there is no generator state to save.
    """
    with np.errstate(over="ignore"):
        key = np.uint64(seed % 2**32) << np.uint64(32) | np.uint64(epoch % 2**32)
        x = mix64(np.arange(num_rows, dtype=np.uint64) + mix64(np.array([key], np.uint64)))
    return np.argsort(x, kind="stable")


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al. 2014) as a hash of each number; call it where overflow is no warning."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed

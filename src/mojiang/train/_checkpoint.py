"""Checkpoints that are whole or not there, written while training goes on.

A state is copied to memory of its own, then written by a thread: hashed on its way to the disk, fsynced, renamed, and
sealed by a small JSON file with its SHA-256. Without an intact seal nothing counts; a torn one is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mojiang.core.files import atomic_write, explained_os_errors, fsync_dir, sha256_file
from mojiang.train._parallel import World

KEEP = 2
"""The last two: should the newest prove unreadable, the one before it is not lost."""


class Checkpointer:
    """Writes and finds the checkpoints of one run: the last `limit`, and the last one that was called the best.

    `save` returns as soon as the state is copied; the copy's memory is kept for the next one. It waits for the write
    before it, so that no two are under way, and raises what went wrong with that. Of several ranks the first writes.
    """

    def __init__(self, folder: Path, world: World | None = None, limit: int = KEEP) -> None:
        self.folder, self.world, self.limit = folder, world or World(), limit
        self._copies: dict[Any, Tensor] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[float] | None = None
        self._copying = 0.0
        self.seconds = 0.0
        """What the last checkpoint cost: seconds that training stood still, and processor seconds of the writing."""

    def save(self, step: int, state: dict[str, Any], best: bool = False) -> None:
        """Write `state` as the checkpoint of `step`.

        Raises:
            Unavailable: the write before this one failed, for the disk is full or not ours; older ones are intact.
        """
        self.wait()
        started = time.perf_counter()
        state = self.world.whole(state)
        if not self.world.is_first:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        copy = self._copied(state)
        self._copying = time.perf_counter() - started
        self._writing = self._thread.submit(_timed, save_checkpoint, self.folder, step, copy, best, self.limit)

    def wait(self) -> None:
        """Return when nothing is being written; raises what went wrong with the last write."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self.seconds = self._copying + writing.result()

    def close(self) -> None:
        """Wait for the last write and give the memory of the copies back."""
        try:
            self.wait()
        finally:
            self._copies = {}
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def load_newest(self) -> dict[str, Any] | None:
        """The newest intact checkpoint, or None."""
        return self._load(best=False)

    def load_best(self) -> dict[str, Any] | None:
        """The last intact checkpoint that was saved as the best, or None."""
        return self._load(best=True)

    def _load(self, best: bool) -> dict[str, Any] | None:
        """What the first rank finds once it has written everything, on every rank."""
        self.wait()
        path = self.world.agreed(find_checkpoint(self.folder, best) if self.world.is_first else None)
        return None if path is None else _read(path)

    def _copied(self, state: Any) -> Any:
        """The state with its tensors copied to the processor's memory, where the last copies lay if they fit."""
        used: dict[Any, Tensor] = {}
        copy = self._copy(state, (), {}, used)
        self._copies = used
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies to pinned memory are asynchronous
        return copy

    def _copy(self, value: Any, path: tuple[Any, ...], seen: dict[Any, Tensor], used: dict[Any, Tensor]) -> Any:
        if isinstance(value, dict):
            return {name: self._copy(part, (*path, name), seen, used) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(part, (*path, n), seen, used) for n, part in enumerate(value))
        if not isinstance(value, Tensor):
            return value
        # Tied weights stay one tensor, or they would be written twice.
        itself = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else path
        if itself not in seen:
            seen[itself] = self._copies.get(path, torch.empty(0))
            if seen[itself].shape != value.shape or seen[itself].dtype != value.dtype:
                seen[itself] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            seen[itself].copy_(value.detach(), non_blocking=True)
            used[path] = seen[itself]
        return seen[itself]


def _timed(work: Callable[..., None], *arguments: Any) -> float:
    started = time.thread_time()
    work(*arguments)
    return time.thread_time() - started


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], best: bool = False, limit: int = KEEP) -> None:
    """Write `state` as the checkpoint of `step`, then remove all but the last `limit` and the last `best` one.

    The seal (a JSON file with the SHA-256) is written after the data is on disk; without it nothing counts.

    Raises:
        Unavailable: the disk is full, or may not be written to. What was there before still is.
    """
    path = folder / f"step-{step:08d}.pt"
    temporary = folder / f".{path.name}.tmp"
    with explained_os_errors(f"writing the checkpoint of step {step}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            digest = _write(temporary, state)
            path.with_suffix(".json").unlink(missing_ok=True)  # an older seal of this step would not fit the new data
            os.replace(temporary, path)
            fsync_dir(folder)
            atomic_write(path.with_suffix(".json"), json.dumps({"step": step, "sha256": digest, "best": best}))
        except BaseException:
            temporary.unlink(missing_ok=True)  # half a checkpoint must not keep the disk full
            raise
        _remove_old(folder, limit)


def load_checkpoint(folder: Path, best: bool = False) -> dict[str, Any] | None:
    """The newest intact checkpoint (that was saved as the `best`), or None."""
    path = find_checkpoint(folder, best)
    return None if path is None else _read(path)


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def find_checkpoint(folder: Path, best: bool = False) -> Path | None:
    """The newest checkpoint (that was saved as the `best`) whose bytes are what was written, or None."""
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        seal = _read_seal(path)
        if seal is None or (best and not seal.get("best")):
            continue
        try:
            intact = sha256_file(path.with_suffix(".pt")) == seal["sha256"]
        except OSError:
            intact = False
        if intact:
            return path.with_suffix(".pt")
    return None


class _Hashing:
    """A file that hashes what is written to it, and keeps the error that PyTorch would report as its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        self.hash.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(path: Path, state: dict[str, Any]) -> str:
    """Write to a file and the disk; returns the SHA-256. Read again, a file of 1 GB would cost half a second more."""
    with open(path, "wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(state, hashing)  # type: ignore[arg-type]
        except RuntimeError:
            if hashing.error is not None:
                raise hashing.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
        return hashing.hash.hexdigest()


def _read_seal(path: Path) -> dict[str, Any] | None:
    try:
        seal = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return seal if isinstance(seal, dict) and "sha256" in seal else None


def _remove_old(folder: Path, limit: int) -> None:
    seals = sorted(folder.glob("step-*.json"))
    bests = [path for path in seals if (_read_seal(path) or {}).get("best")]
    for old in set(seals[:-limit]) - set(bests[-1:]):
        old.unlink()
        old.with_suffix(".pt").unlink(missing_ok=True)
    sealed = {path.stem for path in seals}
    unsealed = (path for path in folder.glob("step-*.pt") if path.stem not in sealed)
    for stray in (*unsealed, *folder.glob(".step-*")):  # of a process that was killed
        stray.unlink()

"""Checkpoints that are whole or not there: hashed, fsynced, renamed; a torn one is passed over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from mojiang.core.files import atomic_write, fsync_dir, sha256_file

KEEP = 2
"""The last two: should the newest prove unreadable, the one before it is not lost."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of `step` and remove all but the last `KEEP`.

    The seal (a JSON file with the SHA-256) is written after the data is on disk; without it nothing counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    temporary = folder / f".{path.name}.tmp"
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    digest = sha256_file(temporary)
    os.replace(temporary, path)
    fsync_dir(folder)
    atomic_write(path.with_suffix(".json"), json.dumps({"step": step, "sha256": digest}))
    for old in sorted(folder.glob("step-*.json"))[:-KEEP]:
        old.unlink()
        old.with_suffix(".pt").unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint whose bytes are what was written, or None."""
    for seal in sorted(folder.glob("step-*.json"), reverse=True):
        path = seal.with_suffix(".pt")
        try:
            intact = sha256_file(path) == json.loads(seal.read_text())["sha256"]
        except (OSError, ValueError, KeyError):
            intact = False
        if intact:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    return None

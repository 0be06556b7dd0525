"""A tiny training in a process of its own, to be killed: python tiny_run.py SCRATCH OUT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mojiang.core.run import Circumstance
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.tokenizer._pack import PackedRows, Sequence, Shards, write_shards
from mojiang.train import _loop
from mojiang.train._batches import Shuffled
from mojiang.train._loop import Training, fit
from mojiang.train._objective import CausalLM
from mojiang.train._settings import Optim, Settings, Watch

CONFIG = DecoderConfig(64, 32, 2, 2, 2, 64, 16)
OPTIM = Optim(optimizer="muon", learning_rate=0.02, embedding_learning_rate=0.003, decay_share=0.6)
CONTEXT = 32
SETTINGS = Settings(num_steps=150, batch_rows=3, micro=2 * CONTEXT, optim=OPTIM, watch=Watch(validations=3))


class SilentRun:
    """The part of `mojiang.core.run.Run` the loop uses."""

    seed = 7
    circumstance = Circumstance()
    stopping = False

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.points: list[dict[str, Any]] = []

    def metrics(self, step: int, **values: float) -> None:
        self.points.append({"step": step, **values})

    def progress(self, done: float, total: float, unit: str = "", **shown: Any) -> None:
        pass

    def log(self, text: str) -> None:
        pass

    warn = log

    def check_stop(self) -> None:
        pass

    request_stop = check_stop


def rows(scratch: Path) -> PackedRows:
    """Counting upwards from a random start: learnable, so losses fall."""
    folder = scratch / "tokens"
    if not (folder / "index.json").exists():
        starts = np.random.default_rng(0).integers(0, 64, 40)
        write_shards([Sequence((s + np.arange(5 + s)) % 64, int(s)) for s in starts], folder, 64)
    return PackedRows(Shards(folder), CONTEXT)


def train(scratch: Path, settings: Settings = SETTINGS) -> tuple[Training, _loop.Result]:
    run: Any = SilentRun(scratch)
    packed = rows(scratch)
    training = begin(scratch, settings, run)
    training.resume()
    return training, fit(training, Shuffled(packed, settings.batch_rows, run.seed))


def begin(scratch: Path, settings: Settings = SETTINGS, run: Any = None) -> Training:
    model = Decoder(CONFIG).init_weights(SilentRun.seed)
    return Training(model, CausalLM(rows(scratch)), settings, run or SilentRun(scratch))


if __name__ == "__main__":
    _loop.CHECKPOINT_SECONDS, _loop.CHECKPOINT_SHARE = 0.02, 1.0
    training, _ = train(Path(sys.argv[1]))
    torch.save(training.model.state_dict(), sys.argv[2])

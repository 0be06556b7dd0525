"""A tiny training of one of several ranks, to be killed: python resume_run.py KIND SCRATCH OUT.

Every step's row numbers and loss are appended to SCRATCH/steps-RANKS-RANK.jsonl.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run

from mojiang.model.decoder import Decoder
from mojiang.train import _loop
from mojiang.train._batches import Shuffled
from mojiang.train._loop import Training, fit
from mojiang.train._parallel import join
from mojiang.train._settings import Optim, Settings, Watch

OPTIM = Optim(optimizer="muon", learning_rate=0.01, embedding_learning_rate=0.003, average=0.9)
SETTINGS = Settings(40, 8, 64, OPTIM, Watch(validations=2, keep_best=True))


class RankRun(tiny_run.SilentRun):
    """The part of a Run that joining takes."""

    device = "cpu"

    def announce_ready(self) -> None:
        pass


class Recorded(Shuffled):
    """Says which rows each step takes."""

    def numbers(self, step: int) -> list[int]:
        self.taken = super().numbers(step)
        return self.taken


def main(kind: str, scratch: Path, out: Path) -> None:
    run: Any = RankRun(scratch)
    world = join(kind, run)  # type: ignore[arg-type]
    rows = tiny_run.rows(scratch)
    training = Training(Decoder(tiny_run.CONFIG).init_weights(7), tiny_run.CausalLM(rows), SETTINGS, run, world)
    training.resume()
    source = Recorded(rows, SETTINGS.batch_rows, 7)
    with open(scratch / f"steps-{world.size}-{world.rank}.jsonl", "a") as record:

        def note(step: int, **values: float) -> None:
            if "loss" in values:
                line = {"step": step, "rows": source.taken, "loss": values["loss"]}
                record.write(json.dumps(line) + "\n")
                record.flush()
                time.sleep(0.03)  # long enough to be killed

        run.metrics = note
        result = fit(training, source)
    world.release(training.model)
    if world.is_first:
        torch.save({"weights": training.model.state_dict(), "validation": result.validation}, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _loop.CHECKPOINT_SECONDS, _loop.CHECKPOINT_SHARE = 0.05, 1.0
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

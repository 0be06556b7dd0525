"""TensorBoard: event files below WORKSPACE/tensorboard/RUN (`tensorboard --logdir WORKSPACE/tensorboard`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mojiang.observe._track import Facts, is_figure

FLUSH_SECONDS = 5


class TensorBoard:
    """The event files of one run.

    A continued run begins a new file that takes the place of the steps from 0 on, so what a kill has torn is whole.
    """

    last = -1

    def __init__(self, workspace: Path, facts: Facts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = workspace / "tensorboard" / facts.run
        purge = 0 if folder.is_dir() else None
        self.facts, self.step = facts, 0
        self.writer: Any = SummaryWriter(folder, purge_step=purge, flush_secs=FLUSH_SECONDS)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar per figure."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.step = step

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """The HPARAMS tab: settings, and the final figures as `final/NAME`."""
        from torch.utils.tensorboard.summary import hparams

        metrics = {f"final/{k}": float(v) for k, v in summary.get("metrics", {}).items() if is_figure(v)}
        if metrics:
            for part in hparams(self.facts.flat(), metrics):  # type: ignore[no-untyped-call]
                self.writer.file_writer.add_summary(part)
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, 0)
        told = "\n\n".join(f"{name}: {value}" for name, value in summary.items() if name != "metrics")
        self.writer.add_text("outcome", f"{status}\n\n{told}", self.step)
        self.writer.close()

"""Weights & Biases: online for a user who is logged in, otherwise offline files below WORKSPACE/wandb."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mojiang.observe._track import Facts


class WandB:
    """A run of W&B with the id of ours.

    Online, a continued run goes on where W&B's record ends. Offline every attempt writes a folder of its own that is
    whole from the first step; `wandb sync` the newest.
    """

    def __init__(self, workspace: Path, facts: Facts) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # who did not log in sends nothing, crashes neither
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, reinit="create_new")
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mojiang"), id=facts.run, name=facts.name, job_type=facts.recipe,
            config={**facts.config, "recipe": facts.recipe, "seed": facts.seed}, dir=str(workspace), mode=mode,
            resume="allow" if mode == "online" else None, settings=settings,
        )  # fmt: skip
        self.run.define_metric("*", step_metric="step")
        summary: Any = self.run.summary
        self.last = int(summary.get("step", -1)) if mode == "online" and self.run.resumed else -1

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """The figures, with our step as their x axis."""
        self.run.log({"step": step, **values})

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """The summary: final metrics, and what became of the run."""
        told = {name: value for name, value in summary.items() if name != "metrics"}
        self.run.summary.update({**summary.get("metrics", {}), "outcome": status, **told})
        self.run.finish(exit_code=0 if status == "done" else 1)

"""What a training says while it runs: a point on the curves each step, progress now and then."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mojiang.model.network import Network

if TYPE_CHECKING:
    from mojiang.train._loop import Training

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class Step:
    """What one step gave."""

    loss: float
    norm: float
    """Of the gradient before clipping."""
    rate: float
    """Learning rate of the first group."""
    terms: dict[str, float]
    """Each term of the loss, per count."""


class Voice:
    """Says how training goes: a point on the curves each step, progress now and then."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.unit = unit_of(training)
        counted = self.unit == "tokens" and training.settings.peak_flops
        self.flops = flops_per_token(training.model, training.settings.context) if counted else 0.0
        self.started = time.monotonic()
        self.shown_at = self.started
        self.before, self.tokens_before = training.seconds, training.tokens

    def after(self, step: Step) -> None:
        """Report a step that was just taken."""
        training = self.training
        now = time.monotonic()
        training.seconds = self.before + now - self.started
        rate = (training.tokens - self.tokens_before) / (now - self.started)
        mfu = {"mfu": rate * self.flops / training.settings.peak_flops} if self.flops else {}
        terms = step.terms if len(step.terms) > 1 else {}
        training.run.metrics(
            training.step, loss=step.loss, gradient_norm=step.norm, learning_rate=step.rate,
            **{f"{self.unit}_per_second": rate}, **mfu, **terms, **training.objective.diagnostics(),
        )  # fmt: skip
        total = training.settings.num_steps
        if now - self.shown_at >= PROGRESS_SECONDS or training.step == total:
            shown = {"loss": round(step.loss, 3)} | {name: f"{share:.0%}" for name, share in mfu.items()}
            expected = training.tokens * total / training.step
            training.run.progress(training.tokens, expected, unit=self.unit, step=f"{training.step}/{total}", **shown)
            self.shown_at = now


def unit_of(training: Training) -> str:
    """What a batch is counted in."""
    if training.objective.generates:
        return "prompts"
    return "tokens" if training.settings.context else "examples"


def flops_per_token(model: Network, context: int) -> float:
    """Forward and backward: 6 per weight of a matrix product, and causal attention over half the context on average."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    config = model.config
    heads = getattr(config, "num_attention_heads", 0) * getattr(config, "head_dim", 0)
    return 6.0 * weights + 6.0 * len(model.blocks()) * heads * context

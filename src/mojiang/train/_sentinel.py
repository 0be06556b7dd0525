"""Watches loss and gradient: stops a run that has left its course, keeps the evidence and says what to try.

Healthy losses fall, jitter, jump for a few steps and come back, or rise to a new level and fall from there. A lost run
is NaN, or stays far above where it was without coming back.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from mojiang.core.files import atomic_write
from mojiang.train._parallel import local

WINDOW = 100
"""Steps that the last one is compared with; those that stand out are not taken in."""
FEWEST = 30
"""Steps that must have been seen before anything but NaN is judged."""
LASTING = 20
"""Steps in a row that must stand out."""
SPREADS = 8.0
"""A loss stands out when it is above the median by so many standard deviations (1.48 times the median deviation),"""
SHARE = 0.25
"""by this share of the median,"""
NATS = 0.1
"""and by this much: a loss that is nearly zero may double."""
DRIFT_SHARE = 0.5
"""The median itself has drifted when it is above the lowest there was by this share of it,"""
DRIFT_NATS = 0.5
"""and by this much."""
NORM_TIMES = 100.0
"""A gradient stands out when it is so many times the median, and longer than 1."""
REMEMBERED = 50
"""Steps in the evidence."""
NAMED = 20
"""Parameters that the evidence names."""


@dataclass(frozen=True)
class Alarm:
    """Why a run was stopped."""

    what: str
    hint: str


class Sentinel:
    """Looks at every step. Its state belongs into checkpoints: a continued run must stop where the first would have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: deque[tuple[int, float, float, float]] = deque(maxlen=REMEMBERED)
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.high_losses: list[float] = []
        self.high_norms = 0
        self.lowest = math.inf

    def look(
        self, step: int, loss: float, norm: float, rate: float, model: nn.Module, rows: Sequence[int] = ()
    ) -> Alarm | None:
        """Judge a step before its update is made: loss, length of the gradient, learning rate; None if all is well.

        With an alarm, `evidence.json` is written: the last steps, the batch's row numbers, and the parameters whose
        gradients or weights are not finite.
        """
        self.history.append((step, loss, norm, rate))
        what = self._judge(loss, norm)
        if what is None:
            return None
        half = getattr(model, "compute_dtype", torch.float32) != torch.float32
        alarm = Alarm(f"{what}, at learning rate {rate:.3g}", self._hint(half))
        self._write(alarm, model, rows)
        return alarm

    def _judge(self, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"the loss is {loss:.5g}, the gradient's norm {norm:.5g}"
        limit, longest = self._limits()
        if loss > limit:
            self.high_losses.append(loss)
        else:
            self.high_losses.clear()
            self.losses.append(loss)
        if norm > longest:
            self.high_norms += 1
        else:
            self.high_norms = 0
            self.norms.append(norm)
        if len(self.high_losses) >= LASTING and not self._coming_back():
            return f"the loss is {loss:.5g} and was above {limit:.5g} for {len(self.high_losses)} steps in a row"
        if self.high_norms >= LASTING:
            return f"the gradient's norm is {norm:.5g} and was above {longest:.5g} for {self.high_norms} steps in a row"
        return self._drift()

    def _drift(self) -> str | None:
        """A rise too slow to stand out from the steps just before."""
        if len(self.history) < FEWEST:
            return None
        middle = median(loss for _, loss, _, _ in self.history)
        self.lowest = min(self.lowest, middle)
        if middle <= self.lowest + max(DRIFT_SHARE * abs(self.lowest), DRIFT_NATS):
            return None
        return f"the loss has risen from {self.lowest:.5g} to {middle:.5g} (medians of {REMEMBERED} steps)"

    def _limits(self) -> tuple[float, float]:
        """Loss and length of the gradient above which a step stands out."""
        if min(len(self.losses), len(self.norms)) < FEWEST:
            return math.inf, math.inf
        middle = median(self.losses)
        deviation = 1.4826 * median(abs(loss - middle) for loss in self.losses)
        limit = middle + max(SPREADS * deviation, SHARE * abs(middle), NATS)
        return limit, max(1.0, NORM_TIMES * median(self.norms))

    def _coming_back(self) -> bool:
        """Whether the last steps that stand out are clearly lower than those before: then they get more time."""
        half = LASTING // 2
        before, last = self.high_losses[-LASTING:-half], self.high_losses[-half:]
        risen = median(before) - median(self.losses)
        return median(last) < median(before) - 0.05 * risen

    def _hint(self, half: bool) -> str:
        tries = ["a lower learning rate or a longer warm-up", "--clip 1"]
        tries += ["--precision fp32"] if half else []
        return (
            f"try {', '.join(tries)}, and look at the rows of the last batches; "
            f"the evidence is in {self.folder / 'evidence.json'}, the last checkpoints are kept"
        )

    def _write(self, alarm: Alarm, model: nn.Module, rows: Sequence[int]) -> None:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        lengths = {name: float(local(gradient).norm()) for name, gradient in gradients.items()}
        longest = sorted((item for item in lengths.items() if math.isfinite(item[1])), key=lambda item: -item[1])
        names = ("step", "loss", "gradient_norm", "learning_rate")
        evidence = {
            "what": alarm.what,
            "hint": alarm.hint,
            "steps": [dict(zip(names, map(_plain, entry), strict=True)) for entry in self.history],
            "rows": [int(row) for row in rows],
            "gradients_not_finite": [name for name, length in lengths.items() if not math.isfinite(length)][:NAMED],
            "weights_not_finite": [
                name for name, p in model.named_parameters() if not bool(torch.isfinite(local(p)).all())
            ][:NAMED],
            "longest_gradients": dict(longest[:NAMED]),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder / "evidence.json", json.dumps(evidence, indent=1, ensure_ascii=False))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "history": list(self.history), "losses": list(self.losses), "norms": list(self.norms),
            "high_losses": list(self.high_losses), "high_norms": self.high_norms,
            "lowest": self.lowest,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.history = deque((tuple(entry) for entry in state["history"]), maxlen=REMEMBERED)
        self.losses, self.norms = deque(state["losses"], maxlen=WINDOW), deque(state["norms"], maxlen=WINDOW)
        self.high_losses, self.high_norms = list(state["high_losses"]), state["high_norms"]
        self.lowest = state["lowest"]


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)

"""Learning-rate schedules: pure functions of the step, and one that watches validation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mojiang.core.errors import BadUsage
from mojiang.train._settings import ScheduleName

HALVING = 0.5
"""What the step schedule multiplies the rate by, again and again."""
ONE_CYCLE_START = 1 / 25
"""Of the peak rate, where one-cycle begins; it ends at 1/10,000 of that (Smith & Topin 2017, PyTorch's defaults)."""


def factor(
    kind: ScheduleName, step: int, num_steps: int, warmup: int, decay_share: float = 0.5, floor: float = 0.0
) -> float:
    """Factor on the peak learning rate at `step` (0-based) of `num_steps`.

    All but one-cycle rise linearly from 1/warmup to 1 over `warmup` steps: no step is wasted at a rate of zero. Then

    - `constant` stays, and so does `plateau`, whose own factor is multiplied on,
    - `linear` and `cosine` fall to `floor`, which they would reach one step after the last,
    - `wsd` stays until the last `decay_share` of the steps, over which it falls linearly to `floor`,
    - `step` halves each `decay_share` of the steps,
    - `onecycle` rises and falls by a cosine, with its peak at step `warmup` - 1.

    >>> [round(factor("cosine", s, 6, warmup=2), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]

    Raises:
        BadUsage: there is no schedule of that name.
    """
    if kind == "onecycle":
        return _one_cycle(step, num_steps, warmup, floor)
    rising = (step + 1) / warmup if step < warmup else 1.0
    progress = max(0.0, (step - warmup) / max(1, num_steps - warmup))
    if kind in ("constant", "plateau"):
        falling = 1.0
    elif kind == "linear":
        falling = 1.0 - progress
    elif kind == "cosine":
        falling = (1.0 + math.cos(math.pi * progress)) / 2
    elif kind == "wsd":
        falling = _last_share(step, num_steps, decay_share)
    elif kind == "step":
        return min(rising, max(floor, HALVING ** (max(0, step - warmup) // max(1, round(decay_share * num_steps)))))
    else:
        raise BadUsage(f"there is no schedule {kind!r}", hint="wsd, cosine, linear, constant, step, onecycle, plateau")
    return min(rising, floor + (1.0 - floor) * min(1.0, falling))


def warmup_stable_decay(step: int, num_steps: int, warmup: int, decay_share: float) -> float:
    """The schedule whose end can be moved without touching its beginning: `factor("wsd", …)`.

    It falls to 1/(decay steps + 1).
    Source: Hu et al. 2024 (MiniCPM); Hägele et al. 2024.

    >>> [round(warmup_stable_decay(s, 10, warmup=2, decay_share=0.5), 3) for s in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.833, 0.667, 0.5, 0.333, 0.167]
    """
    return factor("wsd", step, num_steps, warmup, decay_share)


def _last_share(step: int, num_steps: int, decay_share: float) -> float:
    return (num_steps - step) / (max(1, round(decay_share * num_steps)) + 1)


def _one_cycle(step: int, num_steps: int, warmup: int, floor: float) -> float:
    peak, last = max(0, warmup - 1), num_steps - 1
    if step < peak:
        return _between(ONE_CYCLE_START, 1.0, step / peak)
    end = max(floor, ONE_CYCLE_START / 1e4)
    return _between(1.0, end, min(1.0, (step - peak) / max(1, last - peak)))


def _between(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) / 2 * (1.0 + math.cos(math.pi * share))


@dataclass
class Plateau:
    """A factor on the rate that falls when a measure stops falling. Its state belongs into checkpoints.

    As torch.optim.lr_scheduler.ReduceLROnPlateau with its relative threshold.
    """

    shrink: float = 0.5
    patience: int = 2
    """Measurements without a better one that are borne; the next one lowers the rate."""
    threshold: float = 1e-4
    """Better is less than the best by this share of it."""
    smallest: float = 0.0
    factor: float = 1.0
    best: float = math.inf
    stale: int = 0

    def see(self, value: float) -> None:
        """Take in a measurement, of which less is better; NaN is no improvement."""
        if value < self.best - self.threshold * abs(self.best) or (math.isinf(self.best) and math.isfinite(value)):
            self.best, self.stale = value, 0
            return
        self.stale += 1
        if self.stale > self.patience:
            self.factor, self.stale = max(self.smallest, self.factor * self.shrink), 0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)

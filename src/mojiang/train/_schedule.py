"""Warm-up-stable-decay: the learning-rate schedule whose end can be moved without touching its beginning."""

from __future__ import annotations


def warmup_stable_decay(step: int, num_steps: int, warmup: int, decay_share: float) -> float:
    """Factor on the peak learning rate at `step` (0-based) of `num_steps`.

    Linear from 1/warmup to 1 over `warmup` steps, then 1, then linear to 1/(decay steps + 1) over the last
    `decay_share` of all steps: no step is wasted at a rate of exactly zero.
    Source: Hu et al. 2024 (MiniCPM); Hägele et al. 2024.

    >>> [round(warmup_stable_decay(s, 10, warmup=2, decay_share=0.5), 3) for s in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.833, 0.667, 0.5, 0.333, 0.167]
    """
    rising = (step + 1) / warmup if step < warmup else 1.0
    num_decay = max(1, round(decay_share * num_steps))
    falling = (num_steps - step) / (num_decay + 1)
    return min(1.0, rising, falling)

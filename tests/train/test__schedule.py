from __future__ import annotations

import pytest

from mojiang.train._schedule import warmup_stable_decay


@pytest.mark.parametrize(("num_steps", "warmup", "decay_share"), [(100, 10, 0.3), (7, 2, 0.5), (50, 1, 1.0)])
def test_the_schedule_follows_its_formula(num_steps: int, warmup: int, decay_share: float) -> None:
    num_decay = round(decay_share * num_steps)
    for step in range(num_steps):
        left = num_steps - step
        expected = min((step + 1) / warmup, 1.0, left / (num_decay + 1))
        assert warmup_stable_decay(step, num_steps, warmup, decay_share) == pytest.approx(expected)


def test_moving_the_end_leaves_the_beginning_alone() -> None:
    short = [warmup_stable_decay(step, 100, 10, 0.2) for step in range(79)]
    assert short == [warmup_stable_decay(step, 1000, 10, 0.2) for step in range(79)]

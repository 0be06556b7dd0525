from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import transformers
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from mojiang.core.errors import BadUsage
from mojiang.train._schedule import Plateau, factor, warmup_stable_decay


def rates(num_steps: int, make: Callable[[torch.optim.Optimizer], LRScheduler]) -> list[float]:
    """Rates of a peer's schedule for a peak rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    seen = []
    for _ in range(num_steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(seen) < num_steps:
            schedule.step()
    return seen


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


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_schedules_are_those_of_transformers(kind: str, floor: float) -> None:
    """Ours is one step ahead of theirs while it warms up, so that the first step is not taken at a rate of zero."""
    n, warmup = 60, 7
    theirs = rates(
        n,
        {
            "constant": lambda o: transformers.get_constant_schedule_with_warmup(o, warmup),
            "linear": lambda o: transformers.get_linear_schedule_with_warmup(o, warmup, n),
            "cosine": lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(
                o, warmup, n, min_lr_rate=floor
            ),
        }[kind],
    )  # fmt: skip
    if kind == "linear":
        theirs = [floor + (1 - floor) * rate if step >= warmup else rate for step, rate in enumerate(theirs)]
    for step in range(n):
        expected = theirs[step + 1] if step < warmup else theirs[step]
        assert factor(kind, step, n, warmup, floor=floor) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


def test_steps_are_those_of_pytorch() -> None:
    theirs = rates(50, lambda o: StepLR(o, step_size=10, gamma=0.5))
    assert [factor("step", step, 50, 0, 0.2) for step in range(50)] == pytest.approx(theirs[:50])
    assert factor("step", 49, 50, 0, 0.02, floor=0.25) == 0.25


def test_one_cycle_is_that_of_pytorch() -> None:
    n, share = 40, 0.3
    theirs = rates(n, lambda o: OneCycleLR(o, max_lr=1.0, total_steps=n, pct_start=share))
    assert [factor("onecycle", step, n, round(share * n)) for step in range(n)] == pytest.approx(theirs[:n])


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear", "constant", "step", "onecycle", "plateau"])
@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0), (1, 1), (2, 1), (5, 5), (30, 0), (30, 3)])
def test_no_step_is_wasted_and_none_exceeds_the_peak(kind: str, num_steps: int, warmup: int) -> None:
    found = [factor(kind, step, num_steps, warmup) for step in range(num_steps)]  # type: ignore[arg-type]
    assert all(0 < rate <= 1 for rate in found)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(BadUsage, match="'cosin'"):
        factor("cosin", 0, 10, 1)  # type: ignore[arg-type]


def test_the_plateau_is_that_of_pytorch_and_goes_on_from_its_state() -> None:
    draw = random.Random(0)
    values = [draw.gauss(3 / (1 + n / 5), 0.2) for n in range(80)]
    values[20] = math.nan
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    ours = Plateau()
    for value in values:
        theirs.step(value)
        ours.see(value)
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
        fresh = Plateau()
        fresh.load_state_dict(ours.state_dict())
        ours = fresh
    assert ours.factor < 0.1


def test_a_measure_below_zero_can_still_improve() -> None:
    """The negative of an accuracy, say: a share of the best must not turn its sign."""
    plateau = Plateau(patience=0)
    for value in (-0.5, -0.6, -0.7):
        plateau.see(value)
    assert plateau.factor == 1.0
    plateau.see(-0.7)
    assert plateau.factor == 0.5

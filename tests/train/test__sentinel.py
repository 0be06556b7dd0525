from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mojiang.train._sentinel import LASTING, REMEMBERED, Alarm, Sentinel

MODEL = nn.Linear(2, 2)
STEPS = 500
CURVES = ("pretrain", "sft", "memorise", "preferences", "reinforce")

Curve = tuple[np.ndarray, np.ndarray]


def healthy(kind: str, seed: int) -> Curve:
    """Loss and gradient norm of a run that goes well, with everything that may look bad for a moment."""
    draw = np.random.default_rng(seed)
    t = np.arange(STEPS)
    warmup = int(draw.integers(1, 60))
    noise = draw.standard_t(4, STEPS)
    if kind == "pretrain":
        loss = 2.5 + 5.5 * (1 + np.maximum(0, t - warmup / 2) / 15) ** -draw.uniform(0.3, 0.8)
        loss -= np.clip((t - 0.7 * STEPS) / (0.3 * STEPS), 0, 1) * 0.3  # the rate decays
        bump = int(draw.integers(100, STEPS))  # a new part of the curriculum: up to 15 % harder, then learnt
        loss *= 1 + draw.uniform(0, 0.15) * np.exp(-np.maximum(0, t - bump) / 100) * (t >= bump)
        loss += draw.uniform(0.01, 0.15) * noise
    elif kind == "sft":  # lower by steps: every epoch the examples are known better
        loss = 1.2 * 0.7 ** (t // int(draw.integers(60, 200))) * np.exp(draw.uniform(0.1, 0.4) * noise / 2)
    elif kind == "memorise":
        loss = 3 * np.exp(-t / draw.uniform(20, 60)) + 1e-5 * np.exp(noise)
    elif kind == "preferences":
        loss = 0.1 + 0.59 * np.exp(-t / 200) + draw.uniform(0.02, 0.2) * noise
    else:
        loss = draw.uniform(0.01, 0.3) * noise
    for at in draw.integers(40, STEPS, 3):  # spikes that come back by themselves
        loss[at : at + int(draw.integers(1, 8))] += abs(loss[at]) * draw.uniform(0.5, 3)
    norm = np.exp(0.3 * noise) * (0.3 + 5 * np.exp(-t / 30)) * np.minimum(1, (t + 1) / warmup)
    norm[draw.integers(0, STEPS, 5)] *= draw.uniform(10, 1000)
    return loss, norm


def first_alarm(sentinel: Sentinel, curve: Curve, start: int = 0) -> tuple[int, Alarm] | None:
    for step in range(start, len(curve[0])):
        alarm = sentinel.look(step, float(curve[0][step]), float(curve[1][step]), 0.01, MODEL)
        if alarm is not None:
            return step, alarm
    return None


@pytest.mark.parametrize("kind", CURVES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_healthy_runs_raise_no_alarm(tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int) -> None:
    assert first_alarm(Sentinel(tmp_path_factory.getbasetemp()), healthy(kind, seed)) is None


@pytest.mark.parametrize("kind", ["pretrain", "sft", "preferences"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), at=st.integers(200, 380), times=st.floats(1.8, 10))
def test_a_lasting_spike_is_noticed_soon(
    tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int, at: int, times: float
) -> None:
    loss, norm = healthy(kind, seed)
    jitter = 0.02 * np.random.default_rng(seed).standard_normal(STEPS - at)
    loss[at:] = np.abs(loss[at - 30 : at]).max() * (times + jitter) + 2  # up, and there it stays
    found = first_alarm(Sentinel(tmp_path_factory.getbasetemp()), (loss, norm))
    assert found is not None
    assert at + LASTING - 9 <= found[0] <= at + 2 * LASTING  # a spike may have come just before
    assert "in a row" in found[1].what or "has risen" in found[1].what  # whichever rule saw it first


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_slow_rise_and_an_exploding_gradient_are_noticed(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    loss, norm = healthy("pretrain", seed)
    rising = loss.copy()
    rising[200:] = loss[200:] * np.linspace(1, 2.2, STEPS - 200)
    found = first_alarm(Sentinel(tmp_path_factory.getbasetemp()), (rising, norm))
    assert found is not None
    assert found[0] > 200
    exploding = norm.copy()
    exploding[300:] *= 3000
    found = first_alarm(Sentinel(tmp_path_factory.getbasetemp()), (loss, exploding))
    assert found is not None
    assert 300 + LASTING - 9 <= found[0] <= 300 + 2 * LASTING
    assert "norm" in found[1].what


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_what_is_not_finite_stops_at_once(tmp_path: Path, bad: float, column: int) -> None:
    for at in (0, 3, 200):
        curve = healthy("pretrain", at)
        curve[column][at] = bad
        found = first_alarm(Sentinel(tmp_path), curve)
        assert found is not None
        assert found[0] == at
        assert str(bad) in found[1].what


def test_a_continued_run_stops_where_the_first_would_have(tmp_path: Path) -> None:
    loss, norm = healthy("pretrain", 1)
    loss[300:] *= 3
    whole = first_alarm(Sentinel(tmp_path), (loss, norm))
    assert whole is not None
    for cut in (10, 90, 305, whole[0]):
        first, second = Sentinel(tmp_path), Sentinel(tmp_path)
        assert first_alarm(first, (loss[:cut], norm[:cut])) is None
        saved = tmp_path / "state.pt"
        torch.save(first.state_dict(), saved)
        second.load_state_dict(torch.load(saved, weights_only=True))
        assert first_alarm(second, (loss, norm), cut) == whole


def test_the_evidence_names_what_was_seen(tmp_path: Path) -> None:
    class Half(nn.Module):
        compute_dtype = torch.bfloat16

        def __init__(self) -> None:
            super().__init__()
            self.good, self.bad = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    model = Half()
    model.good.weight.grad, model.bad.weight.grad = torch.ones(2, 2), torch.tensor([[1.0, math.nan], [0.0, 0.0]])
    sentinel = Sentinel(tmp_path / "scratch")
    for step in range(70):
        assert sentinel.look(step, 3.0, 1.0, 0.01, model, rows=[step]) is None
    alarm = sentinel.look(70, 3.0, math.nan, 0.02, model, rows=np.array([5, 8]))  # type: ignore[arg-type]
    assert alarm is not None
    assert alarm.what == "the loss is 3, the gradient's norm nan, at learning rate 0.02"
    for advice in ("lower learning rate", "--clip", "--precision fp32", "rows", "evidence.json"):
        assert advice in alarm.hint
    evidence: dict[str, Any] = json.loads((tmp_path / "scratch" / "evidence.json").read_text())
    assert len(evidence["steps"]) == REMEMBERED
    assert evidence["steps"][-1] == {"step": 70, "loss": 3.0, "gradient_norm": "nan", "learning_rate": 0.02}
    assert evidence["rows"] == [5, 8]
    assert evidence["gradients_not_finite"] == ["bad.weight"]
    assert evidence["weights_not_finite"] == []
    assert evidence["longest_gradients"] == {"good.weight": 2.0}
    assert "NaN" not in (tmp_path / "scratch" / "evidence.json").read_text()  # which JSON does not have

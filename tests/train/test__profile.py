from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

import mojiang
from mojiang.cli.parse import recipe_arguments
from mojiang.core.report import Report
from mojiang.core.run import Circumstance
from mojiang.data.load import Load
from mojiang.train import _profile
from mojiang.train._loop import fit
from mojiang.train._profile import DATA, PYTHON, STEP, WARM_UP, cost_of, kind_of, summarize
from mojiang.train._settings import Settings
from mojiang.train.classify import Classify
from mojiang.train.sweep import Sweep

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run  # a script for another process, not a package


def recorded(work: Any) -> list[Any]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(STEP):
        work()
    return list(profiler.events() or ())


def test_kinds_add_up_to_the_time_of_the_steps() -> None:
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = torch.optim.AdamW([weight])

    def step() -> None:
        with record_function(DATA):
            batch = torch.randn(32, 64)
        torch.nn.functional.scaled_dot_product_attention(*[(batch @ weight)[None]] * 3).square().mean().backward()
        optimizer.step()

    step()
    cost, steps = cost_of(recorded(step))
    assert len(steps) == 1
    assert sum(cost.kinds.values()) == pytest.approx(steps[0], rel=1e-3)
    assert {"data", "matrix products", "attention", "optimizer", PYTHON} <= set(cost.kinds)
    assert {kind for name, kind in cost.operators if name.startswith("Optimizer.step")} == {"optimizer"}


def test_what_takes_the_time_comes_first() -> None:
    large = torch.randn(600, 600)
    assert (
        summarize(recorded(lambda: [large @ large for _ in range(10)]), 1.0).tables[0].rows[0][0] == "matrix products"
    )
    slow = summarize(recorded(lambda: [n * n for n in range(300_000)]), 1.0)
    assert slow.tables[0].rows[0][0] == PYTHON
    assert slow.findings[0].text.startswith(PYTHON)


def test_a_matrix_product_inside_of_something_belongs_to_it() -> None:
    matrix = torch.randn(50, 50)

    def work() -> None:
        with record_function("Optimizer.step#Muon.step"):
            matrix @ matrix

    cost, _ = cost_of(recorded(work))
    assert cost.kinds.keys() == {"optimizer", PYTHON}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::bmm", "matrix products"), ("aten::convolution_backward", "matrix products"),
        ("mojiang::document_attention_backward", "attention"), ("aten::_log_softmax", "loss"),
        ("aten::embedding_dense_backward", "embeddings"), ("aten::copy_", "copies and casts"),
        ("ncclDevKernel_AllReduce", "communication"), ("aten::rsqrt", _profile.OTHER),
    ],
)  # fmt: skip
def test_kinds_of_operators(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_every_kind_has_advice() -> None:
    assert {kind for kind, _ in _profile.KINDS} | {PYTHON, _profile.IDLE, _profile.OTHER} == set(_profile.ADVICE)


class ProfiledRun(tiny_run.SilentRun):
    """A run whose circumstance is to be profiled."""

    id, device = "r", "cpu"

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__(folder / "scratch")
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.store = mojiang.open(folder / "workspace")
        self.store.events_path("r").parent.mkdir(exist_ok=True)
        self.circumstance = Circumstance(profile=steps)
        self.said: list[str] = []

    def log(self, text: str) -> None:
        self.said.append(text)

    warn = log


def trained(folder: Path, profile_steps: int, steps: int) -> tuple[ProfiledRun, dict[str, torch.Tensor]]:
    settings = Settings(**{**vars(tiny_run.SETTINGS), "num_steps": steps})
    run = ProfiledRun(folder, profile_steps)
    training = tiny_run.begin(run.scratch, settings, run)
    packed = tiny_run.rows(run.scratch)
    fit(training, tiny_run.Shuffled(packed, settings.batch_rows, run.seed))
    return run, training.model.state_dict()


def test_a_training_is_profiled_without_being_changed(tmp_path: Path) -> None:
    run, weights = trained(tmp_path / "profiled", 2, WARM_UP + 4)
    folder = run.store.events_path("r").parent / "profile"
    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == STEP and event.get("ph") == "X" for event in trace) == 2
    report = Report.load(folder)
    assert report.scalars["steps"] == 2
    shares = [value for name, value in report.scalars.items() if name.startswith("share_")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert {"matrix products", "attention", "optimizer", "data"} <= {row[0] for row in report.tables[0].rows}
    assert any("profile of 2 steps" in text and "trace.json" in text for text in run.said)
    _, plain = trained(tmp_path / "plain", 0, WARM_UP + 4)
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    assert not (tmp_path / "plain" / "workspace" / "runs" / "r" / "profile").exists()


def test_a_training_that_is_too_short_says_so(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, 2, WARM_UP)
    assert any("nothing was profiled" in text for text in run.said)


def test_on_a_device_its_kernels_are_counted_and_the_rest_of_the_time_is_idle() -> None:
    def event(name: str, spent: float, device: Any = _profile.CUDA, note: bool = False) -> Any:
        return SimpleNamespace(name=name, device_type=device, is_user_annotation=note, self_device_time_total=spent)

    events = [
        event("ampere_sgemm_128x64_tn", 600.0), event("ncclDevKernel_AllReduce", 100.0), event(STEP, 900.0, note=True),
        event("aten::mm", 600.0, _profile.CPU),
    ]  # fmt: skip
    cost = _profile.device_cost(events, seconds=1e-3)
    assert cost.kinds == {"matrix products": 600.0, "communication": 100.0, _profile.IDLE: pytest.approx(300.0)}


def test_only_what_trains_by_steps_can_be_profiled() -> None:
    flags = {recipe.recipe: {flags[0] for flags, _ in recipe_arguments(recipe)} for recipe in (Classify, Sweep, Load)}
    assert "--profile" in flags["train.classify"]
    assert not {"--profile"} & (flags["train.sweep"] | flags["data.load"])
    assert all("--track" in known for known in flags.values())

"""A plan says what the training then takes, leaves nothing behind, and remembers how right it was."""

from __future__ import annotations

import pytest

from mojiang.core.errors import BadUsage, Unavailable
from mojiang.core.report import Report
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.train import _forecast
from mojiang.train.plan import Plan
from mojiang.train.pretrain import Pretrain

SHAPE = {"width": 64, "depth": 2, "context": 128, "batch_tokens": 1024, "precision": "fp32", "compile": "off"}


def planned(store: Store, **settings: object) -> Report:
    recipe = Plan(of="train.pretrain", data="split", tokenizer="bpe", settings={**SHAPE, **settings})  # type: ignore[arg-type]
    return Report.load(execute(recipe, store, name="plan").artifact.path)


def test_a_plan_is_compared_with_what_became_of_it(workspace: Store) -> None:
    models = len(workspace.artifacts("model"))
    plan = planned(workspace, steps=30)
    assert len(workspace.artifacts("model")) == models  # nothing was trained
    assert plan.scalars["steps"] == 30
    assert not any(table.title.startswith("plans so far") for table in plan.tables)
    memory = plan.table("memory at the peak, MB")
    assert sum(float(row[1] or 0) for row in memory.rows) == pytest.approx(plan.scalars["memory_mb"], abs=1)

    recipe = Pretrain(data="split", tokenizer="bpe", steps=30, **SHAPE)  # type: ignore[arg-type]
    trained = execute(recipe, workspace, name="base").artifact
    assert trained.metrics["parameters"] == plan.scalars["parameters"]
    assert trained.metrics["planned_seconds"] == pytest.approx(plan.scalars["train_seconds"], abs=0.1)
    assert trained.metrics["planned_memory_mb"] == pytest.approx(plan.scalars["memory_mb"], abs=1)

    [row] = planned(workspace, steps=31).table("plans so far and what became of them").rows
    taken, said = float(trained.metrics["peak_memory_mb"]), float(trained.metrics["planned_memory_mb"])
    assert row[:3] == [trained.ref, taken, said]
    assert row[3] == pytest.approx(100 * (said - taken) / taken, abs=0.1)


def test_the_same_training_is_the_same_with_and_without_a_plan(workspace: Store) -> None:
    recipe = Pretrain(data="split", tokenizer="bpe", steps=3, **SHAPE)  # type: ignore[arg-type]
    planned(workspace, steps=3)
    after = execute(recipe, workspace, name="after").artifact
    digest = after.manifest.files["model.safetensors"]
    workspace.remove(after)
    assert execute(recipe, workspace, name="alone").artifact.manifest.files["model.safetensors"] == digest


def test_a_recipe_that_does_not_train_cannot_be_planned(workspace: Store) -> None:
    with pytest.raises(BadUsage, match="does not train by gradient") as caught:
        execute(Plan(of="data.clean", data="split"), workspace)
    assert "mojiang train" in caught.value.hint


def test_a_plan_that_does_not_fit_is_refused_with_the_reason(workspace: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forecast, "room", lambda device: 10**6)
    with pytest.raises(Unavailable, match=r"training .* M parameters takes .* and there are") as caught:
        planned(workspace, steps=3)
    assert "adamw8bit" in caught.value.hint

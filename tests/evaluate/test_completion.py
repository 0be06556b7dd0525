"""Completions judged on a model whose answers are known, and on the tiny model."""

from typing import Any

import pytest

from mojiang.core.report import Report
from mojiang.evaluate.completion import Completion


def test_python_is_judged_by_the_parser(world: Any) -> None:
    recipe = Completion(model=world.model.ref, data=world.data.ref, problems=12, max_tokens=48)
    artifact = recipe.execute(world.store, device="cpu")
    report = Report.load(artifact.path)
    s = report.scalars
    assert s["problems"] == 12
    assert 0 <= s["parse_share_low"] <= s["parse_share"] <= s["parse_share_high"] <= 1
    whole = report.table("Bodies that ast.parse accepts").rows[2]
    assert whole[2] == 100.0
    assert s["ceiling_parse_share"] > s["parse_share"]
    assert artifact.metrics["weights"]


def test_other_text_is_judged_by_repetition(prose_world: Any) -> None:
    recipe = Completion(model=prose_world.model.ref, data=prose_world.data.ref, problems=3, max_tokens=32)
    report = Report.load(recipe.execute(prose_world.store, device="cpu").path)
    assert report.scalars["problems"] == 3
    assert 0 <= report.scalars["repeated_4grams"] <= 1
    assert "墨匠" in report.samples[0].prompt
    assert "no Python functions" in report.findings[0].text


def test_greedy_completion_repeats_itself_exactly(prose_world: Any) -> None:
    ref, data = prose_world.model.ref, prose_world.data.ref
    first = Completion(model=ref, data=data, problems=2, max_tokens=16).execute(prose_world.store, device="cpu")
    second = Completion(model=ref, data=data, problems=2, max_tokens=16, samples=5)
    assert second.execute(prose_world.store, device="cpu").metrics == pytest.approx(first.metrics)

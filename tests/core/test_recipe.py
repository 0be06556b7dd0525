"""What a recipe's fingerprint depends on."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Kind
from mojiang.core.config import decode
from mojiang.core.errors import BadUsage
from mojiang.core.recipe import DatasetRef, ModelRef, Recipe, ReportRef


class Example(Recipe):
    """Has every kind of field."""

    recipe: ClassVar[str] = "train.example"
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True
    data: DatasetRef
    base: ModelRef | None = None
    reports: tuple[ReportRef, ...] = ()
    rate: float = 0.1
    note: str = ""


def test_inputs_are_found_in_every_spelling() -> None:
    assert {name: mark.kind for name, mark in Example.input_fields().items()} == {
        "data": "dataset",
        "base": "model",
        "reports": "report",
    }
    assert Example(data="d", reports=("r", "s")).input_refs() == {"data": ["d"], "base": [], "reports": ["r", "s"]}
    assert Example(data="d").literals() == {"rate": 0.1, "note": ""}


def test_the_fingerprint_follows_parents_not_their_names() -> None:
    one = Example(data="corpus").fingerprint({"data": ["f1"]}, 0)
    assert Example(data="corpus@3").fingerprint({"data": ["f1"]}, 0) == one
    assert Example(data="corpus").fingerprint({"data": ["f2"]}, 0) != one
    assert Example(data="corpus").fingerprint({"data": ["f1"]}, 1) != one


@given(st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_any_setting_changes_it_and_a_round_trip_does_not(rate: float, note: str) -> None:
    recipe = Example(data="d", rate=rate, note=note)
    again = Example.model_validate_json(recipe.model_dump_json())
    assert again.fingerprint({}, 0) == recipe.fingerprint({}, 0)
    changed = recipe.model_copy(update={"note": note + "x"})
    assert changed.fingerprint({}, 0) != recipe.fingerprint({}, 0)


def test_a_new_version_of_the_recipe_changes_it() -> None:
    class Newer(Example):
        """The same, done better."""

        version: ClassVar[int] = 2

    assert Newer(data="d").fingerprint({}, 0) != Example(data="d").fingerprint({}, 0)


def test_it_is_frozen_and_strict() -> None:
    recipe = Example(data="d")
    with pytest.raises(ValueError, match="frozen"):
        recipe.rate = 1.0  # type: ignore[misc]
    with pytest.raises(BadUsage, match="unknown key 'rat'") as caught:
        decode(Example, {"data": "d", "rat": 1}, "train.example")
    assert "rate" in caught.value.hint

"""Pipelines: references, parameters, skipping, starting in the middle, failing and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from mojiang.core.artifact import Kind
from mojiang.core.catalog import Catalog, load_catalog
from mojiang.core.config import decode
from mojiang.core.errors import BadInput, BadUsage, GateRefused, NotFound
from mojiang.core.recipe import DatasetRef, Recipe
from mojiang.core.run import Outcome, Run
from mojiang.core.store import Store
from mojiang.recipes._pipeline import Pipeline, run_pipeline

FAILING: set[str] = set()


class Word(Recipe):
    """Writes a word after those of its inputs."""

    recipe: ClassVar[str] = "toy.word"
    makes: ClassVar[Kind] = "dataset"
    word: str
    times: float = 1
    input: DatasetRef | None = None
    more: tuple[DatasetRef, ...] = ()

    def run(self, run: Run) -> dict[str, float | int | str]:
        if self.word in FAILING:
            raise BadInput(f"{self.word} fails today")
        before = [(a.path / "words").read_text() for f in ("input", "more") for a in run.inputs(f)]
        (run.out / "words").write_text(" ".join([*before, self.word * int(self.times)]))
        return {}


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog()
    catalog.add("toy", "word", f"{__name__}:Word", "…")
    entry = catalog.get("toy.word")
    object.__setattr__(entry, "load", lambda: Word)
    return catalog


TEXT = """
name: p
parameters: {x: ex, n: 4}
steps:
  a: {recipe: toy.word, word: "${x}"}
  b: {recipe: toy.word, word: "b-${x}", input: a, times: "${n * 0.5}"}
  c: {recipe: toy.word, word: c, more: [a, b]}
aliases: {c: best}
"""


@pytest.fixture
def pipeline() -> Pipeline:
    return decode(Pipeline, yaml.safe_load(TEXT), "p.yaml")


def states(outcomes: dict[str, Outcome]) -> dict[str, bool]:
    return {step: outcome.reused for step, outcome in outcomes.items()}


def test_steps_feed_each_other(pipeline: Pipeline, store: Store, catalog: Catalog) -> None:
    outcome = run_pipeline(pipeline, store, catalog)
    assert (outcome.last.artifact.path / "words").read_text() == "ex ex b-exb-ex c"
    assert outcome.last.artifact == store.get("p-c@best")
    assert [a.ref for a in store.artifacts()] == ["p-a@1", "p-b@1", "p-c@1"]


def test_only_what_changed_and_what_follows_runs_again(pipeline: Pipeline, store: Store, catalog: Catalog) -> None:
    run_pipeline(pipeline, store, catalog)
    assert states(run_pipeline(pipeline, store, catalog).steps) == {"a": True, "b": True, "c": True}
    changed = pipeline.with_settings({"b.times": 3})
    assert states(run_pipeline(changed, store, catalog).steps) == {"a": True, "b": False, "c": False}
    last = pipeline.with_settings({"c.word": "z"})
    assert states(run_pipeline(last, store, catalog).steps) == {"a": True, "b": True, "c": False}
    everything = pipeline.with_settings({"x": "y"})
    assert states(run_pipeline(everything, store, catalog).steps) == {"a": False, "b": False, "c": False}


def test_a_failed_pipeline_goes_on_where_it_failed(pipeline: Pipeline, store: Store, catalog: Catalog) -> None:
    FAILING.add("c")
    with pytest.raises(BadInput, match="c fails today"):
        run_pipeline(pipeline, store, catalog)
    FAILING.clear()
    assert {run["recipe"]: run["status"] for run in store.runs()}["pipeline"] == "failed"
    assert states(run_pipeline(pipeline, store, catalog).steps) == {"a": True, "b": True, "c": False}
    assert {run["status"] for run in store.runs()} == {"done"}


def test_starting_at_a_step(pipeline: Pipeline, store: Store, catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="p-a has not been made yet"):
        run_pipeline(pipeline, store, catalog, start="b")
    run_pipeline(pipeline, store, catalog)
    # With --from the earlier steps are taken as they are, though the parameter they use has changed.
    outcome = run_pipeline(pipeline.with_settings({"x": "new"}), store, catalog, start="b")
    assert (outcome.steps["b"].artifact.path / "words").read_text() == "ex b-newb-new"


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        ({"steps": {}}, "at least 1 item", ""),
        ({"steps": {"a": {"word": "x"}}}, "does not say its recipe", "mojiang list"),
        ({"steps": {"a": {"recipe": "toy.world", "word": "x"}}}, "no capability 'toy.world'", "toy.word"),
        ({"steps": {"a": {"recipe": "toy.word", "wrod": "x"}}}, "unknown key 'wrod'", "word"),
        ({"steps": {"a": {"recipe": "toy.word", "word": "${y}"}}}, "refers to ${y}", "known"),
        ({"steps": {"a": {"recipe": "toy.word", "word": "${x * 2}"}}}, "not a number", ""),
        ({"aliases": {"zz": "prod"}}, "unknown steps", "known: a, b, c"),
        ({"stepz": {}}, "unknown key 'stepz'", "steps"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], said: str, hint: str, store: Store, catalog: Catalog) -> None:
    def load_and_run() -> None:
        run_pipeline(decode(Pipeline, {**yaml.safe_load(TEXT), **change}, "p.yaml"), store, catalog)

    with pytest.raises((BadUsage, NotFound)) as caught:
        load_and_run()
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert store.artifacts() == []


def test_inputs_are_checked_before_anything_runs(store: Store, catalog: Catalog) -> None:
    steps = {"a": {"recipe": "toy.word", "word": "x"}, "b": {"recipe": "toy.word", "word": "y", "input": "c"}}
    later = {**steps, "c": {"recipe": "toy.word", "word": "z"}}
    for broken, said in ((steps, "no artifact is called 'c'"), (later, "which is not before it")):
        pipeline = decode(Pipeline, {"name": "p", "steps": broken}, "p.yaml")
        with pytest.raises((BadUsage, NotFound), match=said):
            run_pipeline(pipeline, store, catalog)
    assert store.artifacts() == []


def test_a_protected_alias_needs_a_gate(store: Store, catalog: Catalog) -> None:
    steps = {"a": {"recipe": "toy.word", "word": "x"}}
    pipeline = decode(Pipeline, {"name": "p", "steps": steps, "aliases": {"a": "prod"}}, "p.yaml")
    with pytest.raises(GateRefused, match="without a gate"):
        run_pipeline(pipeline, store, catalog)
    assert store.find("p-a@prod") is None


def test_unknown_settings_are_named(pipeline: Pipeline) -> None:
    with pytest.raises(BadUsage, match="no setting 'bb.times'"):
        pipeline.with_settings({"bb.times": 3})
    with pytest.raises(BadUsage, match="no setting 'y'"):
        pipeline.with_settings({"y": 3})


def test_the_shipped_pipelines_parse() -> None:
    folder = Path(__file__).parents[2] / "src" / "mojiang" / "recipes"
    names = [path.stem for path in folder.glob("*.yaml")]
    assert "quickstart" in names
    for name in names:
        recipes = Pipeline.load(name).recipes(load_catalog(plugins=False))
        known = set(recipes)
        for step, recipe in recipes.items():
            refs = {ref for group in recipe.input_refs().values() for ref in group}
            assert refs <= known, step


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(NotFound, match=r"no file 'nope.yaml'"):
        Pipeline.load("nope.yaml")

"""Every capability, the same checks: adding one writes its contract tests."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mojiang
from mojiang.cli.main import main
from mojiang.cli.parse import recipe_arguments
from mojiang.core.artifact import KINDS, Artifact, read_manifest
from mojiang.core.catalog import Entry, load_catalog
from mojiang.core.config import decode
from mojiang.core.errors import BadUsage
from mojiang.core.recipe import Recipe
from mojiang.core.report import Report
from mojiang.core.store import Store

ROOT = Path(__file__).parents[2]
ENTRIES = list(load_catalog(plugins=False))
every = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])

Make = Callable[..., Artifact]
Tiny = Callable[[str], dict[str, Any]]
# Measured on the clock, or of a process with a history, so never the same twice.
CLOCK = re.compile(r"second|speed|per_second|latency|peak|mfu|flops|tokens_s|throughput|time|memory", re.IGNORECASE)


def test_the_catalog_is_not_empty() -> None:
    assert len(ENTRIES) >= 14
    assert len({entry.target for entry in ENTRIES}) == len(ENTRIES)


@every
def test_it_is_named_and_documented(entry: Entry) -> None:
    recipe: type[Recipe] = entry.load()
    assert recipe.recipe == entry.name
    assert recipe.makes in KINDS
    assert 10 < len(entry.summary) <= 100
    document = inspect.getdoc(recipe) or ""
    for part in ("When not to use", "Source", "Example"):
        assert f"{part}:" in document, part
    assert len(recipe.model_fields) <= 25
    for name, field in recipe.model_fields.items():
        assert field.description, f"{name} has no docstring"


@every
def test_its_example_runs(entry: Entry) -> None:
    recipe = entry.load()
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(recipe) or "", {recipe.__name__: recipe}, entry.name, None, None
    )
    assert any(f"{recipe.__name__}(" in example.source for example in test.examples)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.DocTestRunner(optionflags=flags).run(test).failed == 0


@every
def test_a_config_survives_a_round_trip_and_refuses_unknown_keys(entry: Entry, tiny: Tiny) -> None:
    recipe, values = entry.load(), tiny(entry.name)
    config = decode(recipe, values, entry.name)
    assert recipe.model_validate_json(config.model_dump_json()) == config
    known = next(iter(recipe.model_fields))
    with pytest.raises(BadUsage, match=f"unknown key '{known}x'") as caught:
        decode(recipe, {**values, f"{known}x": 1}, entry.name)
    assert known in caught.value.hint
    schema = recipe.model_json_schema()
    assert set(schema["properties"]) == set(recipe.model_fields)


@every
def test_it_runs_small_and_its_artifact_is_whole(entry: Entry, chain: tuple[Store, Make]) -> None:
    store, make = chain
    artifact = make(entry.name)
    assert artifact.kind == entry.load().makes
    artifact.verify()
    assert read_manifest(artifact.path) == artifact.manifest
    assert artifact.manifest.metrics
    if artifact.kind == "report":
        assert Report.load(artifact.path).title
    assert make(entry.name).ref == artifact.ref, "the same config again is the same artifact"
    assert [a.fingerprint for a in store.lineage(artifact)][0] == artifact.fingerprint


@every
def test_the_same_seed_gives_the_same_result(
    entry: Entry, chain: tuple[Store, Make], make: Callable[[Store], Make], tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = chain[1](entry.name)
    again = make(_second_store(tmp_path_factory))(entry.name)
    assert again.fingerprint == first.fingerprint
    assert _steady(again.metrics) == _steady(first.metrics)
    if first.kind == "report":
        assert _steady(Report.load(again.path).scalars) == _steady(Report.load(first.path).scalars)
    else:
        timed = {"report.json"}
        if entry.name == "data.crawl":
            timed |= {"origins-00000.parquet", "pages-00000.parquet"}  # they say when each page was fetched
        files = {n: e.sha256 for n, e in first.manifest.files.items() if n not in timed}
        assert {n: e.sha256 for n, e in again.manifest.files.items() if n not in timed} == files


def _second_store(factory: pytest.TempPathFactory) -> Store:
    folder = factory.getbasetemp() / "second"
    return mojiang.open(folder)


def _steady(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not CLOCK.search(name)}


@every
def test_the_seed_matters_where_it_is_said_to(entry: Entry, tiny: Tiny) -> None:
    recipe: type[Recipe] = entry.load()
    config = decode(recipe, tiny(entry.name), entry.name)
    assert (config.fingerprint({}, 0) != config.fingerprint({}, 1)) == recipe.stochastic


@every
def test_its_command_shows_every_setting(entry: Entry) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        main([entry.group, entry.word, "--help"])
    assert ended.value.code == 0
    for flags, _ in recipe_arguments(entry.load()):
        assert flags[0] in shown.getvalue()


@every
def test_its_docs_page_is_written(entry: Entry) -> None:
    page = (ROOT / "docs" / "reference" / f"{entry.group}.md").read_text(encoding="utf-8")
    assert f"## {entry.name}" in page
    assert f"[{entry.name}]" in (ROOT / "CAPABILITIES.md").read_text(encoding="utf-8")

"""A pipeline: named steps, each a recipe, each fed by the steps before it.

    name: quickstart
    parameters:
      data: python:stdlib
    steps:
      corpus: {recipe: data.load, source: "${data}"}
      clean:  {recipe: data.clean, input: corpus}
    aliases:
      clean: best

Where a recipe takes an artifact, the name of an earlier step stands for what that step made; anything else is a REF in
the store. `${parameter}` is replaced by its value, `${minutes * 0.5}` by half of it. The steps are executed in order;
a step whose fingerprint is in the store is skipped, so running a pipeline again runs what changed and what follows it.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from mojiang.core.catalog import Catalog
from mojiang.core.config import Config, closest, decode, digest, read_yaml
from mojiang.core.errors import BadUsage, GateRefused, Interrupted, MojiangError, NotFound
from mojiang.core.memory import give_freed_memory_back
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, Outcome, execute
from mojiang.core.store import PROTECTED_ALIASES, Store

REFERENCE = re.compile(r"\$\{\s*(\w+)\s*(?:\*\s*(\d+(?:\.\d+)?)\s*)?\}")

Parameter = str | int | float | bool | None


class Pipeline(Config):
    """A parsed pipeline file."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Artifacts are called NAME-STEP."""
    about: str = ""
    """One line on what it is for."""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    """Values that steps refer to as ${parameter}, with their defaults."""
    steps: dict[str, dict[str, Any]] = Field(min_length=1)
    """Step name → {recipe: GROUP.RECIPE, and its settings}."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Step name → alias given to its artifact when every step is done."""

    @classmethod
    def load(cls, path: Path | str) -> Pipeline:
        """Read a pipeline file; `Pipeline.load("quickstart")` reads the named one shipped with Mojiang."""
        shipped = Path(__file__).parent / f"{path}.yaml"
        file = shipped if shipped.is_file() else Path(path)
        return decode(cls, read_yaml(file), str(path))

    def with_settings(self, settings: dict[str, Any]) -> Pipeline:
        """A copy with `parameter` or `step.key` settings changed; an unknown one is `BadUsage`."""
        parameters, steps = dict(self.parameters), {step: dict(values) for step, values in self.steps.items()}
        for key, value in settings.items():
            step, dot, field = key.partition(".")
            if not dot and key in parameters:
                parameters[key] = value
            elif dot and step in steps:
                _assign(steps[step], field.split("."), value)
            else:
                raise BadUsage(f"{self.name} has no setting {key!r}", hint=closest(step, steps if dot else parameters))
        return self.model_copy(update={"parameters": parameters, "steps": steps})

    def recipes(self, catalog: Catalog) -> dict[str, Recipe]:
        """Every step as a recipe, its settings checked; inputs still carry step names."""
        recipes = {step: self._recipe(step, values, catalog) for step, values in self.steps.items()}
        unknown = sorted(set(self.aliases) - set(self.steps))
        if unknown:
            raise BadUsage(f"{self.name}: aliases for unknown steps {unknown}", hint=closest(unknown[0], self.steps))
        return recipes

    def _recipe(self, step: str, values: dict[str, Any], catalog: Catalog) -> Recipe:
        where = f"{self.name} step {step!r}"
        if "recipe" not in values:
            raise BadUsage(f"{where} does not say its recipe", hint="add `recipe: GROUP.RECIPE` (`mojiang list`)")
        settings = {key: self._substitute(value, where) for key, value in values.items() if key != "recipe"}
        recipe: Recipe = decode(catalog.get(str(values["recipe"])).load(), settings, where)
        return recipe

    def _substitute(self, value: Any, where: str) -> Any:
        if isinstance(value, list):
            return [self._substitute(item, where) for item in value]
        if isinstance(value, dict):
            return {key: self._substitute(item, where) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        whole = REFERENCE.fullmatch(value)
        if whole:
            return self._value(whole, where)
        text = REFERENCE.sub(lambda match: str(self._value(match, where)), value)
        if "${" in text:
            raise BadUsage(f"{where}: {value!r} cannot be read", hint="write ${parameter} or ${parameter * 0.5}")
        return text

    def _value(self, match: re.Match[str], where: str) -> Parameter:
        name, factor = match.groups()
        if name not in self.parameters:
            raise BadUsage(f"{where} refers to ${{{name}}}", hint=closest(name, self.parameters))
        value = self.parameters[name]
        if factor is None or value is None:
            return value
        if isinstance(value, str | bool):
            raise BadUsage(f"{where}: {match.group(0)}: {name} is {value!r}, not a number", hint="give a number")
        return value * float(factor)


@dataclass(frozen=True)
class PipelineOutcome:
    """What every step gave, in order."""

    run: str
    steps: dict[str, Outcome]
    seconds: float

    @property
    def last(self) -> Outcome:
        """The outcome of the last step."""
        return list(self.steps.values())[-1]


OnStep = Callable[[str, Recipe, Outcome | None], None]


def run_pipeline(
    pipeline: Pipeline, store: Store, catalog: Catalog, *, seed: int = 0, start: str = "",
    circumstance: Circumstance | None = None, on_step: OnStep | None = None,
) -> PipelineOutcome:  # fmt: skip
    """Execute every step; `start` takes what the steps before it made last time, without looking at them again.

    `on_step(name, recipe, None)` is called before a step and `on_step(name, recipe, outcome)` after it.
    """
    circumstance = circumstance or Circumstance()
    recipes = pipeline.recipes(catalog)
    if start and start not in recipes:
        raise BadUsage(f"{pipeline.name} has no step {start!r}", hint=closest(start, recipes))
    config = pipeline.model_dump(mode="json")
    fingerprint = digest({"pipeline": config, "seed": seed, "store": store.url})
    _check_inputs(pipeline, recipes, store)
    begun, outcomes = time.monotonic(), dict[str, Outcome]()
    with store.lock(fingerprint):
        run = store.start_run(fingerprint, "pipeline", pipeline.name, config, seed, "")
        circumstance = dataclasses.replace(circumstance, parent=run)
        try:
            skipping = bool(start)
            for step, recipe in recipes.items():
                skipping = skipping and step != start
                name = f"{pipeline.name}-{step}"
                connected = _connect(recipe, outcomes)
                if on_step:
                    on_step(step, connected, None)
                if skipping:
                    outcomes[step] = _made_before(store, name, start)
                else:
                    outcomes[step] = execute(connected, store, name=name, seed=seed, circumstance=circumstance)
                if on_step:
                    on_step(step, connected, outcomes[step])
                # One step's tables and dictionaries are nothing to the next one.
                circumstance.engine.rest()
                give_freed_memory_back()
            for step, alias in pipeline.aliases.items():
                _check_gated(alias, outcomes[step], outcomes)
                store.alias(outcomes[step].artifact, alias)
        except (Interrupted, KeyboardInterrupt):
            store.end_run(run, "interrupted", "stopped by the user")
            raise
        except MojiangError as error:
            store.end_run(run, "failed", error.message)
            raise
        store.end_run(run, "done")
    return PipelineOutcome(run, outcomes, time.monotonic() - begun)


def _check_inputs(pipeline: Pipeline, recipes: dict[str, Recipe], store: Store) -> None:
    """Before anything runs: every input is an earlier step of the right kind, or in the store."""
    earlier: dict[str, Recipe] = {}
    for step, recipe in recipes.items():
        marks = recipe.input_fields()
        for field, words in recipe.input_refs().items():
            kind = marks[field].kind
            for word in words:
                if word in earlier and kind in (None, earlier[word].makes):
                    continue
                if word in earlier:
                    made = earlier[word].makes
                    raise BadUsage(f"{pipeline.name} step {step!r}: {word!r} makes a {made}, {field} takes a {kind}")
                if word in recipes:
                    raise BadUsage(
                        f"{pipeline.name} step {step!r} uses {word!r}, which is not before it", hint="move it up"
                    )
                store.get(word, kind)
        earlier[step] = recipe


def _check_gated(alias: str, outcome: Outcome, outcomes: dict[str, Outcome]) -> None:
    """A protected alias needs a gate of this pipeline that judged exactly this artifact (a refusal ended it before)."""
    gates = [one.artifact for one in outcomes.values() if one.artifact.recipe == "trust.gate"]
    if alias in PROTECTED_ALIASES and not any(
        outcome.artifact.fingerprint in g.manifest.parents["model"] for g in gates
    ):
        raise GateRefused(
            f"@{alias} for {outcome.artifact.ref} without a gate",
            hint="add a step with recipe trust.gate on that model",
        )


def _made_before(store: Store, name: str, start: str) -> Outcome:
    artifact = store.find(name)
    if artifact is None:
        raise NotFound(f"{name} has not been made yet, so nothing can start at {start!r}", hint="leave --from out once")
    return Outcome(artifact, artifact.manifest.run, True, 0.0)


def _connect(recipe: Recipe, outcomes: dict[str, Outcome]) -> Recipe:
    """The recipe with step names replaced by the artifacts those steps made."""

    def ref(word: str) -> str:
        return outcomes[word].artifact.fingerprint if word in outcomes else word

    changed = {
        field: ref(value) if isinstance(value, str) else tuple(ref(word) for word in value)
        for field in recipe.input_fields()
        if (value := getattr(recipe, field)) is not None
    }
    return recipe.model_copy(update=changed)


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, dict) else {}
        values = values[key]
    values[path[-1]] = value

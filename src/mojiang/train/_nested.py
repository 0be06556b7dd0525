"""Recipes that run other recipes: how one is set up, and run as an ordinary run of the same store."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from mojiang.core.catalog import load_catalog
from mojiang.core.config import closest, decode, parse_yaml
from mojiang.core.errors import BadUsage
from mojiang.core.recipe import Recipe
from mojiang.core.run import Outcome, Run, execute

FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def from_words(value: Any) -> Any:
    """Settings as a command line gives them: JSON or YAML.

    >>> from_words('{"learning_rate": 1e-4}'), from_words("{epochs: 3}")
    ({'learning_rate': 0.0001}, {'epochs': 3})
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return parse_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{value!r} is neither JSON nor YAML") from error


def assigned(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others put in, whose names may be dotted; neither argument is changed.

    >>> assigned({"optim": {"clip": 1.0}, "steps": 3}, {"optim.learning_rate": 0.1, "steps": 4})
    {'optim': {'clip': 1.0, 'learning_rate': 0.1}, 'steps': 4}
    """
    result: dict[str, Any] = dict(settings)
    for name, value in given.items():
        head, dot, rest = name.partition(".")
        inner = result.get(head)
        result[head] = assigned(inner if isinstance(inner, Mapping) else {}, {rest: value}) if dot else value
    return result


def set_up(run: Run, name: str, settings: Mapping[str, Any], inputs: tuple[str, ...], where: str) -> Recipe:
    """The recipe called `name` with these settings, and with this run's own inputs pinned to what they are now.

    Raises:
        BadUsage: a setting is wrong; an input is one the recipe does not take; or an artifact named in the settings
            is not pinned by its fingerprint, so that the same settings could mean another artifact tomorrow.
    """
    kind: type[Recipe] = load_catalog().get(name).load()
    pinned = {field: run.input(field).fingerprint for field in inputs if run.inputs(field)}
    takes = kind.input_fields()
    if unknown := sorted(set(pinned) - set(takes)):
        raise BadUsage(f"{where}: {name} takes no {unknown[0]}", hint=f"it takes {', '.join(takes)}")
    for field in takes:
        refs = settings.get(field) or ()
        for ref in (refs,) if isinstance(refs, str) else refs:
            if not FINGERPRINT.fullmatch(ref):
                hint = f"give --{field}" if field in inputs else f"write {run.store.get(ref).fingerprint}"
                raise BadUsage(f"{where}: settings name the artifact {ref!r} for {field}", hint=hint)
    return decode(kind, {**settings, **pinned}, where)


def run_nested(run: Run, recipe: Recipe, name: str) -> Outcome:
    """Run a recipe as a part of this one, with its seed, device and listeners, unless the store has its artifact."""
    circumstance = replace(run.circumstance, parent=run.id, profile=0)
    return execute(recipe, run.store, name=name, seed=run.seed, circumstance=circumstance)


def name_of(run: Run) -> str:
    """What the artifact of this run is going to be called."""
    return str(run.store.get_run(run.id)["name"])


def figure(metrics: Mapping[str, Any], name: str, where: str) -> float:
    """A metric that is a number; `BadUsage` names those that there are."""
    value = metrics.get(name)
    if isinstance(value, str) or value is None:
        numbers = [known for known, number in metrics.items() if not isinstance(number, str)]
        raise BadUsage(f"{where} has no metric {name!r}", hint=closest(name, numbers))
    return float(value)

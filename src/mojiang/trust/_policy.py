"""The policy file of the gate: what evidence a model needs, as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from mojiang.core.config import Config, closest, decode, read_yaml
from mojiang.core.errors import BadUsage, NotFound

POLICIES = Path(__file__).parent / "policies"

Bound = float | str
LIMITS = ("less_than", "at_most", "greater_than", "at_least")


class Rule(Config):
    """A metric of a report held against a number, or against another metric of the same report."""

    metric: str
    """Name of the metric, such as bits_per_byte."""
    of: str
    """Recipe whose newest report holds it, such as evaluate.heldout."""
    less_than: Bound | None = None
    """The metric must be smaller than this number or metric."""
    at_most: Bound | None = None
    """The metric must not exceed this number or metric."""
    greater_than: Bound | None = None
    """The metric must be larger than this number or metric."""
    at_least: Bound | None = None
    """The metric must not be below this number or metric."""

    @model_validator(mode="after")
    def _one_limit(self) -> Rule:
        if sum(getattr(self, name) is not None for name in LIMITS) != 1:
            raise ValueError(f"a rule has exactly one of {', '.join(LIMITS)}")
        return self

    @property
    def limit(self) -> tuple[str, Bound]:
        """The comparison and what it compares with."""
        return next((name, getattr(self, name)) for name in LIMITS if getattr(self, name) is not None)

    def __str__(self) -> str:
        name, bound = self.limit
        return f"{self.of}: {self.metric} {name.replace('_', ' ')} {bound}"


class Inheritance(Config):
    """Lets a derived model stand on the reports of the model it was made from."""

    through: str
    """Recipe that derived it, such as compress.quantize."""
    metric: str = "bits_per_byte"
    """Metric of the derived model's own parity report; METRIC_before is the parent's."""
    max_relative_increase: float = Field(0.005, ge=0)
    """Largest share by which the metric may have grown."""


class Policy(Config):
    """What a model must show before it is promoted."""

    name: str
    """Short name, shown in verdicts."""
    description: str = ""
    """What the policy is for."""
    require: tuple[str, ...] = ()
    """Recipes whose reports must exist for exactly these weights."""
    rules: tuple[Rule, ...] = ()
    """Limits on metrics of those reports."""
    inherit_from_parent: tuple[Inheritance, ...] = ()
    """Derivations through which the parent's reports count."""
    max_age_days: float | None = Field(None, gt=0)
    """Oldest report that still counts."""
    licences: tuple[str, ...] | None = None
    """Licences that the training documents may carry; absent: any."""

    @property
    def evidence(self) -> tuple[str, ...]:
        """Recipes whose reports the policy needs, required by name or through a rule, each once."""
        return tuple(dict.fromkeys([*self.require, *(rule.of for rule in self.rules)]))


def load_policy(name: str) -> Policy:
    """A shipped policy by name ("default"), or a YAML file by path.

    >>> load_policy("default").require
    ('evaluate.heldout', 'evaluate.completion')

    Raises:
        BadUsage: an unknown key (with the closest known one), a wrong value, or not YAML.
        NotFound: neither a shipped policy nor a file.
    """
    shipped = {path.stem: path for path in POLICIES.glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if name not in shipped and not path.is_file():
        raise NotFound(
            f"there is no policy {name!r}", hint=f"give the path of a YAML file, or a name: {closest(name, shipped)}"
        )
    return parse_policy(read_yaml(path), f"policy {path.name}")


def parse_policy(values: Mapping[str, Any], where: str) -> Policy:
    """A policy from plain values; errors name the rule they are in."""
    content = dict(values)
    for key, model in (("rules", Rule), ("inherit_from_parent", Inheritance)):
        items = content.get(key, [])
        if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
            raise BadUsage(f"{where}: {key!r} is not a list of mappings", hint=f"write `{key}:` and `- {{key: value}}`")
        content[key] = tuple(decode(model, item, f"{where} {key}[{i}]") for i, item in enumerate(items))
    return decode(Policy, content, where)

"""One decoder for configs: the CLI, YAML, Python and HTTP all come through here."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mojiang.core.errors import BadUsage, NotFound

Model = TypeVar("Model", bound=BaseModel)


class Config(BaseModel):
    """A frozen, typed group of settings. Attribute docstrings become help, docs and form labels."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @classmethod
    def over(cls, default: Config, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a group when some are given: the others stay as the recipe has them."""
        return {**default.model_dump(), **given}


def groups_of(model: type[BaseModel]) -> dict[str, type[Config]]:
    """The fields of a config that are groups of settings."""
    nested = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in nested.items() if isinstance(kind, type) and issubclass(kind, Config)}


def leaf_groups(model: type[BaseModel]) -> dict[str, str]:
    """Settings that only one group has → that group: they may be given by their last name."""
    owners: dict[str, list[str]] = {}
    for group, kind in groups_of(model).items():
        for leaf in kind.model_fields:
            owners.setdefault(leaf, []).append(group)
    return {leaf: groups[0] for leaf, groups in owners.items() if len(groups) == 1 and leaf not in model.model_fields}


def grouped(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with every setting in its group and the group's other settings as the config's default has them.

    So `learning_rate=1e-4` is `optim={"learning_rate": 1e-4}`, and neither resets the recipe's own warm-up.
    """
    leaves, sorted_out = leaf_groups(model), dict(values)
    given: dict[str, dict[str, Any]] = {}
    for leaf in [name for name in sorted_out if name in leaves]:
        given.setdefault(leaves[leaf], {})[leaf] = sorted_out.pop(leaf)
    for group, kind in groups_of(model).items():
        inner = sorted_out.get(group, {})
        if isinstance(inner, kind):
            inner = inner.model_dump() if group in given else None
        if isinstance(inner, Mapping) and (inner or group in given):
            field = model.model_fields[group]
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            both = {**inner, **given.get(group, {})}
            sorted_out[group] = both if default is None else kind.over(default, both)
    return sorted_out


def closest(word: str, known: Iterable[str]) -> str:
    """`did you mean …` for a word that is not known, or the list of what is.

    >>> closest("learning_rat", ["learning_rate", "epochs"])
    "did you mean 'learning_rate'?"
    """
    names = sorted(known)
    matches = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"known: {', '.join(names)}"


def decode(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Build a config from plain values, or raise `BadUsage` that names every wrong key and value.

    `where` says whose settings these are ("train.sft", "quickstart.yaml step 'sft'").
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems, hints = [], []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                problems.append(f"unknown key {path!r}")
                hints.append(closest(str(item["loc"][-1]), _fields_at(model, item["loc"][:-1])))
            elif item["type"] == "missing":
                problems.append(f"{path!r} is required")
                hints.append(f"give --{path.replace('_', '-')} or set it in the file")
            else:
                message = item["msg"].removeprefix("Value error, ")
                value = "" if item["type"] == "value_error" and not path else f" (got {item['input']!r})"
                problems.append(f"{path}: {message}{value}" if path else message)
        name = getattr(model, "recipe", "GROUP.RECIPE")
        hint = "; ".join(dict.fromkeys(hints)) or f"`mojiang explain {name}` lists every setting"
        raise BadUsage(f"{where}: " + "; ".join(problems), hint=hint) from None


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> Iterable[str]:
    """Field names of the model nested at `path`, for suggestions."""
    for part in path:
        field = model.model_fields.get(str(part))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return ()
        model = nested
    return [*model.model_fields, *leaf_groups(model)]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans, true and false: `compile: on` means the word on, `country: no` the word no."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def parse_yaml(text: str) -> Any:
    """The value a YAML text stands for; raises `yaml.YAMLError`.

    >>> parse_yaml("[on, true, 3e-4, 1]")
    ['on', True, '3e-4', 1]
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping; anything else is `BadUsage` with the line."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"{path} cannot be read: {error}", hint="check that it is a UTF-8 text file") from error
    except yaml.YAMLError as error:
        raise BadUsage(f"{path} is not valid YAML: {error}", hint="check indentation and colons") from error
    if not isinstance(content, dict):
        raise BadUsage(f"{path} holds {type(content).__name__}, not a mapping", hint="write `key: value` lines")
    return content


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, Unicode as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, as hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()

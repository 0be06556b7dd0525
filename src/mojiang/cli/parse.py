"""From words on the command line to a command, or to a recipe and its circumstances."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from inspect import isfunction
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from mojiang.cli.commands import COMMANDS, DEVICE, DRY_RUN, ENGINE, SEED, TRACK, WORKERS, Argument
from mojiang.core.catalog import Catalog
from mojiang.core.config import leaf_groups
from mojiang.core.errors import BadUsage

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from mojiang.core.recipe import Recipe

GLOBAL: list[Argument] = [
    (("--workspace",), {"metavar": "DIR", "help": "where artifacts live (default: the nearest .mojiang)"}),
    (("--store",), {"metavar": "URL", "help": "database of the store (default: SQLite in the workspace)"}),
    (("--json",), {"action": "store_true", "help": "print one JSON object as the last line"}),
    (("--quiet",), {"action": "store_true", "help": "no progress and no log lines"}),
    (("--debug",), {"action": "store_true", "help": "show the traceback of an error"}),
]

CIRCUMSTANCE: list[Argument] = [
    (("--name",), {"default": "", "help": "name of the artifact (default: the recipe's last word)"}),
    SEED,
    DEVICE,
    ENGINE,
    (
        ("--launcher",),
        {"choices": ["local", "torchrun", "ray", "slurm"], "default": "local", "help": "what runs training"},
    ),
    (("--ranks",), {"type": int, "default": 2, "metavar": "N", "help": "processes a node, with a launcher"}),
    (("--nodes",), {"type": int, "default": 1, "metavar": "N", "help": "machines, with slurm and ray"}),
    WORKERS,
    TRACK,
    DRY_RUN,
]

PROFILE: Argument = (
    ("--profile",),
    {"type": int, "default": 0, "metavar": "STEPS", "help": "profile so many training steps (trace.json in the run)"},
)
"""Of the recipes that train by steps."""


class Parser(argparse.ArgumentParser):
    """argparse, with our errors instead of its own."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadUsage` that names the closest known flag."""
        from mojiang.core.config import closest

        hint = f"`{self.prog} --help` shows every flag"
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            word = message.removeprefix(prefix).split()[0].partition("=")[0]
            known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            message, hint = f"unknown flag {word!r}", closest(word, known)
        raise BadUsage(message, hint=hint)


def parser_for(prog: str, summary: str, arguments: list[Argument]) -> Parser:
    """A parser of these arguments and the global ones."""
    parser = Parser(prog=prog, description=summary, allow_abbrev=False)
    for flags, settings in arguments:
        parser.add_argument(*flags, **settings)
    common = parser.add_argument_group("everywhere")
    for flags, settings in GLOBAL:
        common.add_argument(*flags, **settings)
    return parser


def split_global(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Global flags given before the command, and the rest."""
    takes_value = {flag for flags, settings in GLOBAL for flag in flags if "metavar" in settings}
    known = {flag for flags, _ in GLOBAL for flag in flags}
    position = 0
    while position < len(words) and words[position].partition("=")[0] in known:
        position += 2 if words[position] in takes_value else 1
    return list(words[:position]), list(words[position:])


def recipe_arguments(recipe: type[Recipe]) -> list[Argument]:
    """One flag per field of a recipe; one of a group is `--field`, or `--group.field` where two groups have it."""
    arguments = _field_arguments(recipe.model_fields, "", leaf_groups(recipe)) + CIRCUMSTANCE
    return [*arguments, PROFILE] if {"length", "optim"} <= set(recipe.model_fields) else arguments


def _field_arguments(fields: dict[str, FieldInfo], prefix: str, leaves: dict[str, str]) -> list[Argument]:
    from pydantic import BaseModel

    arguments: list[Argument] = []
    for name, field in fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            arguments += _field_arguments(field.annotation.model_fields, f"{prefix}{name}.", leaves)
            continue
        flags = [f"--{prefix}{name}".replace("_", "-")]
        if leaves.get(name) == prefix.removesuffix(".") != "":
            flags.insert(0, f"--{name}".replace("_", "-"))
        default = "required" if field.is_required() else f"default {default_of(field)}"
        help = f"{(field.description or '').strip()} ({default})".replace("%", "%%")
        settings: dict[str, Any] = {"dest": f"{prefix}{name}", "default": argparse.SUPPRESS, "help": help}
        if field.annotation is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["metavar"] = name.upper()
            if "tuple" in str(field.annotation):
                settings["nargs"] = "+"
        arguments.append((tuple(flags), settings))
    return arguments


def default_of(field: FieldInfo) -> str:
    """A setting's default as it is shown: what differs from call to call by the name of its function."""
    factory = field.default_factory
    return f"{factory.__name__}()" if isfunction(factory) else repr(field.get_default(call_default_factory=True))


def recipe_values(recipe: type[Recipe], parsed: argparse.Namespace) -> dict[str, Any]:
    """The fields the user gave, nested where the recipe nests them."""
    values: dict[str, Any] = {}
    for key, value in vars(parsed).items():
        head, dot, rest = key.partition(".")
        if head in recipe.model_fields and (dot or key in recipe.model_fields):
            optional = not dot and type(None) in get_args(recipe.model_fields[head].annotation)
            value = None if value in ("none", "null") and optional else value  # YAML's word, too
            if dot:
                values.setdefault(head, {})[rest] = value
            else:
                values[head] = value
    return values


def help_text(catalog: Catalog) -> str:
    """The first page: commands, then the groups of recipes."""
    lines = ["Mojiang (模匠): from raw text to a safe, observed, served language model.", ""]
    lines += ["usage: mojiang COMMAND [--help]          mojiang GROUP RECIPE [--help]", ""]
    for title, commands in COMMANDS.items():
        lines.append(f"{title}:")
        lines += [f"  {word:<12} {summary}" for word, (_, summary, _) in commands.items()]
        lines.append("")
    lines.append("recipes:")
    for group in catalog.groups():
        words = [entry.word for entry in catalog if entry.group == group]
        lines.append(f"  {group:<12} {' '.join(words)}")
    lines += ["", "everywhere: --workspace DIR  --store URL  --json  --quiet  --debug  --version", ""]
    lines.append("New here? `mojiang quickstart` does the main job end to end in ten minutes.")
    return "\n".join(lines)


def group_help(group: str, catalog: Catalog) -> str:
    """The recipes of one group."""
    lines = [f"usage: mojiang {group} RECIPE [--flag value …]", ""]
    lines += [f"  {entry.word:<12} {entry.summary}" for entry in catalog if entry.group == group]
    return "\n".join([*lines, "", f"`mojiang {group} RECIPE --help` shows its settings."])


def unknown_word(word: str, catalog: Catalog) -> BadUsage:
    """The error for a first word that is neither a command nor a group."""
    from mojiang.core.config import closest

    known = [*(word for commands in COMMANDS.values() for word in commands), *catalog.groups()]
    hint = closest(word, known)
    return BadUsage(
        f"{word!r} is not a command", hint=hint if hint.startswith("did") else "`mojiang --help` lists them"
    )


def is_terminal() -> bool:
    """Whether progress can be drawn: standard error is a terminal."""
    return sys.stderr.isatty()

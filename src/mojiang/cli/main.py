"""The front door: `mojiang …`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from mojiang.cli.commands import find_command
from mojiang.cli.parse import (
    group_help,
    help_text,
    parser_for,
    recipe_arguments,
    recipe_values,
    split_global,
    unknown_word,
)
from mojiang.core.catalog import Catalog, load_catalog
from mojiang.core.errors import Interrupted, MojiangError

# How long an idle OpenMP thread spins before it sleeps, read once when PyTorch loads. The default (about a millisecond)
# takes the core from whoever else needs it: with one busy neighbour on two cores, a training step went from 0.58 s
# to 7.4 s. With a short spin it takes 1.2 s then, and 0.60 s on a quiet machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 failed, 2 bad usage, 3 gate refused, 130 interrupted)."""
    before, words = split_global(list(sys.argv[1:] if words is None else words))
    debug = "--debug" in before or "--debug" in words
    try:
        return _dispatch(before, words)
    except BrokenPipeError:
        # The reader of our output (head, less) has left; that is not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail(Interrupted("stopped at once", hint="the same command continues it"), before + words)
    except MojiangError as error:
        if debug:
            raise
        return _fail(error, before + words)
    except Exception as error:
        if debug:
            raise
        unforeseen = MojiangError(
            f"{type(error).__name__}: {error}", hint="this is a defect of Mojiang; --debug shows where it happened"
        )
        return _fail(unforeseen, before + words)


def _dispatch(before: list[str], words: list[str]) -> int:
    if "--version" in before + words[:1]:
        import mojiang

        print(f"mojiang {mojiang.__version__}")
        return 0
    if words and (command := find_command(words[0])):
        return _command(words[0], command, before + words[1:])
    catalog = load_catalog()
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(catalog))
        return 0
    group = words[0]
    if group not in catalog.groups():
        raise unknown_word(group, catalog)
    if len(words) == 1 or words[1] in ("-h", "--help"):
        print(group_help(group, catalog))
        return 0
    return _recipe(catalog, f"{group}.{words[1]}", before + words[2:])


def _command(word: str, command: tuple[str, str, list[Any]], words: list[str]) -> int:
    target, summary, arguments = command
    args = parser_for(f"mojiang {word}", summary, arguments).parse_args(words)
    module, _, function = target.partition(":")
    result = getattr(importlib.import_module(f"mojiang.cli.{module}"), function)(args)
    return _finish(result, args)


def _recipe(catalog: Catalog, name: str, words: list[str]) -> int:
    entry = catalog.get(name)
    recipe = entry.load()
    arguments = recipe_arguments(recipe)
    if entry.group == "data":
        arguments.append(
            (("--why-dropped",), {"metavar": "DOC", "default": "", "help": "where and why DOC was dropped"})
        )
    parser = parser_for(f"mojiang {entry.group} {entry.word}", entry.summary, arguments)
    args = parser.parse_args(words)
    args.command = [entry.group, entry.word, *words]
    from mojiang.cli.execute import execute_recipe

    return _finish(execute_recipe(recipe, recipe_values(recipe, args), args), args)


def _finish(result: dict[str, Any] | int | None, args: argparse.Namespace) -> int:
    """A command returns the object of its `--json` line, or an exit code where there is none."""
    if isinstance(result, int):
        return result
    if args.json:
        print(json.dumps(result or {}, ensure_ascii=False, default=str), flush=True)
    return int((result or {}).get("exit_code", 0))


def _fail(error: MojiangError, words: list[str]) -> int:
    from mojiang.cli.render import print_error

    print_error(error)
    if "--json" in words:
        record = {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        print(json.dumps({"error": record}, ensure_ascii=False), flush=True)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

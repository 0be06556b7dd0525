"""Finding one's way: find, list, explain, plugins, doctor."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from rich.markup import escape

from mojiang.cli.commands import COMMANDS
from mojiang.cli.render import print_report, stderr, stdout, table
from mojiang.core.catalog import load_catalog


def list_(args: argparse.Namespace) -> dict[str, Any]:
    """Every capability with its summary."""
    entries = list(load_catalog())
    table(["capability", "what it does"], [[entry.name, entry.summary] for entry in entries])
    return {"capabilities": [{"name": entry.name, "summary": entry.summary} for entry in entries]}


def find(args: argparse.Namespace) -> dict[str, Any]:
    """Capabilities and commands whose name, summary or documentation has the word."""
    word, rows = args.word.lower(), list[list[str]]()
    for entry in load_catalog():
        named = word in entry.name or word in entry.summary.lower()
        if named or word in (inspect.getdoc(entry.load()) or "").lower():
            rows.append([f"mojiang {entry.group} {entry.word}", entry.summary])
    for commands in COMMANDS.values():
        rows += [[f"mojiang {name}", told] for name, (_, told, _) in commands.items() if word in name or word in told]
    if rows:
        table(["command", "what it does"], rows)
    else:
        stderr().print(f"nothing mentions {args.word!r}; `mojiang list` shows every capability", markup=False)
    return {"found": [{"command": command, "summary": summary} for command, summary in rows]}


def explain(args: argparse.Namespace) -> dict[str, Any]:
    """A capability's documentation and settings."""
    entry = load_catalog().get(args.name.replace(" ", "."))
    recipe = entry.load()
    console = stdout()
    console.print(f"[bold]mojiang {entry.group} {entry.word}[/]: {escape(entry.summary)}\n")
    console.print(inspect.getdoc(recipe) or "", markup=False)
    console.print(f"\nmakes a {recipe.makes}; {entry.target}\n")
    rows = [
        [
            name,
            "required" if field.is_required() else repr(field.get_default(call_default_factory=True)),
            field.description,
        ]
        for name, field in recipe.model_fields.items()
    ]
    table(["setting", "default", "meaning"], rows)
    return {"name": entry.name, "summary": entry.summary, "schema": recipe.model_json_schema()}


def plugins(args: argparse.Namespace) -> dict[str, Any]:
    """Who added which capability."""
    entries = list(load_catalog())
    sources = dict.fromkeys(entry.source for entry in entries)
    rows = [[source, " ".join(entry.name for entry in entries if entry.source == source)] for source in sources]
    table(["added by", "capabilities"], rows)
    return {"plugins": [{"source": source, "capabilities": names.split()} for source, names in rows]}


def doctor(args: argparse.Namespace) -> dict[str, Any]:
    """What this machine can do and what is missing."""
    from pathlib import Path

    import mojiang
    from mojiang.deploy.doctor import diagnose

    workspace = Path(args.workspace) if args.workspace else mojiang.find_workspace()
    report = diagnose(next(folder for folder in (workspace, *workspace.absolute().parents) if folder.exists()))
    print_report(report)
    return {"report": report.model_dump(mode="json")}

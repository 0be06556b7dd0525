"""Running a recipe from the command line."""

from __future__ import annotations

import argparse
import os
from typing import Any

import mojiang
from mojiang.cli.launch import REPORTS, as_rank, is_launched, launch
from mojiang.cli.parse import is_terminal
from mojiang.cli.render import Progressing, duration, number, size, stderr
from mojiang.core.artifact import Artifact
from mojiang.core.config import decode
from mojiang.core.engine import Engine, LocalEngine
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, Outcome, execute, rank, resolve_device, resolve_inputs
from mojiang.core.store import Store
from mojiang.observe._track import Tracker


def open_store(args: argparse.Namespace) -> Store:
    """The store that the flags name."""
    return mojiang.open(args.workspace, args.store or "")


def circumstance(args: argparse.Namespace) -> Circumstance:
    """Device, workers and listeners that the flags name."""
    if args.device == "cuda":
        resolve_device("cuda")  # say so before any work is done
    progress = Progressing(is_terminal(), args.quiet)
    trackers = tuple(Tracker(name, open_store(args), progress) for name in getattr(args, "track", ()))
    return Circumstance(
        device=args.device, engine=engine_of(args), listeners=(progress, *trackers),
        profile=getattr(args, "profile", 0),
    )  # fmt: skip


def engine_of(args: argparse.Namespace) -> Engine:
    """What `--engine` names."""
    if args.engine == "ray":
        from mojiang.core.cluster import RayEngine

        return RayEngine(args.workers)
    return LocalEngine(args.workers)


def execute_recipe(recipe: type[Recipe], values: dict[str, Any], args: argparse.Namespace) -> dict[str, Any] | int:
    """Execute (or, with --dry-run, describe) one recipe; returns its JSON record, or 0 from a rank that has none."""
    config = decode(recipe, values, recipe.recipe)
    store = open_store(args)
    if args.dry_run:
        return describe(config, store, args)
    if is_launched():
        return _execute_rank(config, store, args)
    if args.launcher != "local":
        launched = launch(config, store, args)
        if isinstance(launched, dict):
            return launched
        outcome = launched
    else:
        outcome = execute(config, store, name=args.name, seed=args.seed, circumstance=circumstance(args))
    print_outcome(outcome)
    if getattr(args, "why_dropped", ""):
        from mojiang.cli.store import print_why_dropped

        print_why_dropped(store, outcome.artifact, args.why_dropped)
    return record(outcome)


def _execute_rank(config: Recipe, store: Store, args: argparse.Namespace) -> dict[str, Any] | int:
    """One of several ranks: the first tells what was made, unless the command that started them does."""
    with as_rank(args.debug):
        outcome = execute(config, store, name=args.name, seed=args.seed, circumstance=circumstance(args))
    if rank() > 0 or REPORTS in os.environ:
        return 0
    print_outcome(outcome)
    return record(outcome)


def describe(config: Recipe, store: Store, args: argparse.Namespace) -> dict[str, Any]:
    """What would run, and how long it took last time."""
    inputs = resolve_inputs(config, store)
    fingerprint = config.fingerprint({f: [a.fingerprint for a in group] for f, group in inputs.items()}, args.seed)
    existing = store.by_fingerprint(fingerprint)
    last = last_time(config, store)
    told = f"is done: {existing.ref}" if existing else f"would run ({estimate(last)})"
    stderr().print(f"{config.recipe} {told}", markup=False)
    state = {"recipe": config.recipe, "fingerprint": fingerprint, "done": existing.ref if existing else None}
    return {**state, "dry_run": True, "estimated_seconds": last.manifest.seconds if last else None}


def last_time(config: Recipe, store: Store) -> Artifact | None:
    """The newest artifact the same recipe made, the best estimate of time there is before a run."""
    made = [artifact for artifact in store.artifacts(config.makes) if artifact.recipe == config.recipe]
    return made[-1] if made else None


def estimate(last: Artifact | None) -> str:
    """The time the recipe took last, in words."""
    return f"{last.ref} took {duration(last.manifest.seconds)}" if last else "never run here, so no estimate"


def print_outcome(outcome: Outcome) -> None:
    """One line: what was made, or what was there already."""
    artifact = outcome.artifact
    if outcome.reused:
        stderr().print(f"[green]✓[/] {artifact.ref} [dim]unchanged, skipped[/]")
    else:
        console = stderr()
        line = f"[green]✓[/] {artifact.ref} [dim]{artifact.kind}, {size(artifact.bytes)}, {duration(outcome.seconds)}"
        line += f"{summary(artifact)}[/]"
        if console.is_terminal:  # one line each; a file or pipe gets everything
            console.print(line, soft_wrap=False, no_wrap=True, overflow="ellipsis")
        else:
            console.print(line)


def summary(artifact: Artifact, most: int = 4) -> str:
    """The first figures of an artifact."""
    figures = [(name, value) for name, value in artifact.metrics.items() if not isinstance(value, str)]
    shown = [f"{name.replace('_', ' ')} {number(value)}" for name, value in figures[:most]]
    return " · " + ", ".join(shown) if shown else ""


def record(outcome: Outcome) -> dict[str, Any]:
    """The JSON object of an executed recipe."""
    artifact = outcome.artifact
    return {
        "run": outcome.run,
        "artifact": artifact.ref,
        "fingerprint": artifact.fingerprint,
        "path": str(artifact.path),
        "kind": artifact.kind,
        "metrics": artifact.metrics,
        "seconds": round(outcome.seconds, 3),
        "reused": outcome.reused,
    }

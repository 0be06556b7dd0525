"""Commands that run pipelines: run, quickstart."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import chain, islice
from typing import Any

import yaml

from mojiang.cli.execute import circumstance, describe, open_store, print_outcome, record
from mojiang.cli.render import duration, number, stderr
from mojiang.core.catalog import load_catalog
from mojiang.core.config import parse_yaml
from mojiang.core.errors import BadUsage, NotFound
from mojiang.core.recipe import Recipe
from mojiang.core.run import Outcome
from mojiang.core.store import Store
from mojiang.recipes._pipeline import Pipeline, PipelineOutcome, run_pipeline


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run a pipeline file."""
    pipeline = Pipeline.load(args.file).with_settings(settings(args.set))
    return execute_pipeline(pipeline, open_store(args), args)


def settings(pairs: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as values; VALUE is read as YAML, so 3 is a number and [a, b] a list."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadUsage(f"--set {pair!r} is not KEY=VALUE", hint="for example --set chat.learning_rate=3e-4")
        try:
            parsed = parse_yaml(value) if value else ""
        except yaml.YAMLError as error:
            raise BadUsage(
                f"--set {pair!r}: {value!r} is not valid YAML", hint="quote it, or close the bracket"
            ) from error
        values[key] = value if isinstance(parsed, str) else parsed
    return values


def execute_pipeline(pipeline: Pipeline, store: Store, args: argparse.Namespace) -> dict[str, Any]:
    """Run (or, with --dry-run, describe) a parsed pipeline; returns the JSON record of its last step."""
    catalog = load_catalog()
    if getattr(args, "dry_run", False):
        return _dry_run(pipeline, store, args)
    return _record(run_shown(pipeline, store, args, catalog))


def run_shown(pipeline: Pipeline, store: Store, args: argparse.Namespace, catalog: Any = None) -> PipelineOutcome:
    """Run a pipeline with its progress on the terminal."""
    catalog = catalog or load_catalog()
    total, position = len(pipeline.steps), 0

    def on_step(step: str, recipe: Recipe, outcome: Outcome | None) -> None:
        nonlocal position
        if outcome is not None:
            print_outcome(outcome)
        else:
            position += 1
            summary = catalog.get(recipe.recipe).summary
            if not args.quiet:
                stderr().print(f"[bold]{position}/{total} {step}[/] [dim]{recipe.recipe}: {summary}[/]")

    where = circumstance(args)
    return run_pipeline(
        pipeline, store, catalog, seed=args.seed, start=getattr(args, "start", ""), circumstance=where, on_step=on_step
    )


def _record(outcome: PipelineOutcome) -> dict[str, Any]:
    steps = {step: record(one) for step, one in outcome.steps.items()}
    return {**record(outcome.last), "run": outcome.run, "seconds": round(outcome.seconds, 3), "steps": steps}


def _dry_run(pipeline: Pipeline, store: Store, args: argparse.Namespace) -> dict[str, Any]:
    """The steps and, as far as their inputs are known already, whether each is done."""
    planned: dict[str, Any] = {}
    for step, recipe in pipeline.recipes(load_catalog()).items():
        refs = {word for group in recipe.input_refs().values() for word in group}
        made = {name: planned[name]["done"] for name in refs & planned.keys()}
        if all(made.values()):
            update = {
                field: made.get(value, value) if isinstance(value, str) else tuple(made.get(w, w) for w in value)
                for field in recipe.input_fields()
                if (value := getattr(recipe, field)) is not None
            }
            planned[step] = describe(recipe.model_copy(update=update), store, args)
        else:
            waiting = ", ".join(sorted(name for name, done in made.items() if not done))
            stderr().print(f"{recipe.recipe} would run (after {waiting})", markup=False)
            planned[step] = {"recipe": recipe.recipe, "done": None, "dry_run": True}
    return {"pipeline": pipeline.name, "dry_run": True, "steps": planned}


def quickstart(args: argparse.Namespace) -> dict[str, Any] | int:
    """The main job, end to end: the shipped pipeline, then the endpoint, tried by the real client."""
    given = {key: value for key in ("data", "minutes") if (value := getattr(args, key)) is not None}
    pipeline = Pipeline.load("quickstart").with_settings({**given, **settings(args.set)})
    store = open_store(args)
    if args.dry_run:
        return _dry_run(pipeline, store, args)
    begun = time.monotonic()
    outcome = run_shown(pipeline, store, args)
    served = next((outcome.steps[step] for step in pipeline.aliases if step in outcome.steps), None)
    if served is None:
        raise NotFound("the pipeline promotes no model", hint="its `aliases:` names the step to serve")
    trial = _try_endpoint(served, outcome, args)
    result = {**_record(outcome), **record(served), "run": outcome.run}
    result["metrics"] = _metrics(outcome)
    result |= {"seconds": round(time.monotonic() - begun, 3), "endpoint": trial, "card": _card(outcome)}
    _print_summary(result, outcome)
    if args.serve:
        from mojiang.cli.use import serve_artifacts

        return serve_artifacts([served.artifact], host="127.0.0.1", port=8000, device=args.device)
    return result


def _metrics(outcome: PipelineOutcome) -> dict[str, Any]:
    """The evaluations' metrics, those of the served model last so that they win."""
    merged: dict[str, Any] = {}
    for one in outcome.steps.values():
        if one.artifact.recipe.startswith(("evaluate.", "compress.")):
            merged |= one.artifact.metrics
    return merged


def _card(outcome: PipelineOutcome) -> str:
    cards = [one.artifact.path for one in outcome.steps.values() if one.artifact.recipe == "trust.card"]
    return str(cards[-1] / "card.html") if cards else ""


def _try_endpoint(served: Outcome, outcome: PipelineOutcome, args: argparse.Namespace) -> dict[str, Any]:
    """Ask the served model a question mined from held-out documents, in their language."""
    from mojiang.cli.use import try_endpoint
    from mojiang.data.mine import read_conversations

    if not args.quiet:
        stderr().print("[bold]trying the endpoint[/] [dim]served on a free port, asked by the openai client[/]")
    pairs = next(one.artifact.path for one in outcome.steps.values() if one.artifact.recipe == "data.mine")
    splits = [split for split in ("validation", "train") if (pairs / split).is_dir()]
    rows = chain.from_iterable(read_conversations(pairs, split) for split in splits)
    some = list(islice(rows, 200))
    usual, _ = Counter(row["kind"] for row in some).most_common(1)[0]
    alike = [row["messages"] for row in some if row["kind"] == usual]
    messages = min(alike, key=lambda messages: len(messages[0]["content"]))
    return try_endpoint(served.artifact, messages[0]["content"], messages[-1]["content"])


def _print_summary(result: dict[str, Any], outcome: PipelineOutcome) -> None:
    console, metrics = stderr(), result["metrics"]
    ref = result["artifact"]
    shown = [
        (label, number(metrics[key]))
        for label, key in (
            ("this model", "bits_per_byte"), ("gzip -9", "gzip_bits_per_byte"), ("xz -9", "xz_bits_per_byte"),
            ("zstd -19", "zstd_bits_per_byte"), ("n-gram", "ngram_bits_per_byte"))
        if key in metrics
    ]  # fmt: skip
    console.print()
    console.print("[bold]held-out bits per byte[/]  " + "   ".join(f"{a} {b}" for a, b in shown))
    trial = result["endpoint"]
    console.print("[bold]asked over the API[/]")
    for text, style in ((trial["prompt"], ""), (trial["answer"], "dim")):
        console.print("    " + text.strip()[:600].replace("\n", "\n    "), markup=False, style=style)
    name = ref.partition("@")[0]
    for label, value in (
        ("model", f"{result['path']}  ({ref}, alias @prod)"), ("card", result["card"]),
        ("endpoint", f"mojiang serve {name}@prod   then http://127.0.0.1:8000/v1"),
        ("talk to it", f"mojiang chat {name}@prod"), ("look around", "mojiang ls · mojiang lineage " + ref),
    ):  # fmt: skip
        console.print(f"[bold]{label:<12}[/]{value}", soft_wrap=True)
    reused = sum(one.reused for one in outcome.steps.values())
    told = f"{len(outcome.steps)} steps, {reused} unchanged and skipped"
    console.print(f"[green]done in {duration(result['seconds'])}[/]  [dim]{told}[/]")

"""Commands on evidence: card, gate, promote."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path
from typing import Any

from mojiang.cli.execute import open_store, print_outcome, record
from mojiang.cli.parse import is_terminal
from mojiang.cli.render import Progressing, stderr, table
from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadUsage, GateRefused
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store


def card(args: argparse.Namespace) -> dict[str, Any]:
    """Write the card of a model or of a dataset from what the store holds now."""
    store = open_store(args)
    subject = store.get(args.ref)
    if subject.kind not in ("model", "dataset"):
        hint = "give a model or a dataset"
        raise BadUsage(f"{subject.ref} is a {subject.kind}, and a card is about a model or a dataset", hint=hint)
    recipe = _model_card(store, subject) if subject.kind == "model" else _data_card(subject)
    where = Circumstance(listeners=(Progressing(is_terminal(), args.quiet),))
    outcome = execute(recipe, store, name=f"{subject.name}-card", circumstance=where)
    print_outcome(outcome)
    page = outcome.artifact.path / "card.html"
    if args.out:
        target = Path(args.out)
        if target.exists() and not target.is_dir():
            raise BadUsage(f"--out {args.out} is a file", hint="give a folder")
        shutil.copytree(outcome.artifact.path, target, dirs_exist_ok=True)
        page = target / "card.html"
    stderr().print(str(page), markup=False)
    return {**record(outcome), "html": str(page), "markdown": str(page.with_suffix(".md"))}


def _model_card(store: Store, model: Artifact) -> Recipe:
    from mojiang.trust._evidence import parent_model, reports_on
    from mojiang.trust.card import Card

    parent = parent_model(store, model)
    reports = reports_on(store, model) + (reports_on(store, parent) if parent else [])
    # Named one by one, so that new evidence makes a new card.
    newest = {
        report.recipe: report.fingerprint for report in reversed(reports) if not report.recipe.startswith("trust.")
    }
    return Card(model=model.fingerprint, reports=tuple(newest.values()))


def _data_card(dataset: Artifact) -> Recipe:
    from mojiang.trust.data_card import DataCard

    if importlib.util.find_spec("scipy") is None:
        stderr().print("no topics: scipy is not installed; pip install 'mojiang[nlp]'", markup=False)
        return DataCard(data=dataset.fingerprint, topics=0)
    return DataCard(data=dataset.fingerprint)


def gate(args: argparse.Namespace) -> dict[str, Any]:
    """Judge a model by a policy; exit code 3 when it is refused."""
    store = open_store(args)
    model = store.verify(store.get(args.ref, "model"))
    return _judge(store, model, args.policy)


def promote(args: argparse.Namespace) -> dict[str, Any]:
    """Give the alias, if the gate passes."""
    store = open_store(args)
    model = store.verify(store.stored(args.ref))
    verdict = _judge(store, model, args.policy)
    if verdict["passed"]:
        store.alias(model, args.name)
        stderr().print(f"{model.name}@{args.name} is now {model.ref}")
        verdict["alias"] = f"{model.name}@{args.name}"
    return verdict


def _judge(store: Store, model: Artifact, policy: str) -> dict[str, Any]:
    from mojiang.trust._policy import load_policy
    from mojiang.trust.gate import check_gate

    verdict = check_gate(store, model, load_policy(policy or "default"))
    rows = [["passed" if check.passed else "FAILED", check.asks, check.found] for check in verdict.checks]
    table(["verdict", "the policy asks", "the evidence"], rows)
    checks = [check.model_dump() for check in verdict.checks]
    answer = {"model": model.ref, "fingerprint": model.fingerprint, "policy": verdict.policy, "checks": checks}
    refused = [check for check in verdict.checks if not check.passed]
    if refused:
        stderr().print(f"[bold red]refused[/]: {model.ref} fails {len(refused)} of {len(checks)} checks")
        stderr().print("[cyan]hint:[/] make the missing reports for exactly this model, or improve it; then ask again")
    else:
        stderr().print(f"[green]passed[/]: {model.ref} meets policy {verdict.policy!r}")
    return answer | {"passed": not refused, "exit_code": GateRefused.exit_code if refused else 0}

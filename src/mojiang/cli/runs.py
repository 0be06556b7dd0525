"""Commands on runs: runs, logs, stop, resume."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from typing import Any

from mojiang.cli.execute import circumstance, open_store, print_outcome, record
from mojiang.cli.render import Progressing, stderr, stdout, table
from mojiang.core.catalog import load_catalog
from mojiang.core.config import decode
from mojiang.core.errors import BadInput, Unavailable
from mojiang.core.events import Event, read_events
from mojiang.core.run import execute


def runs(args: argparse.Namespace) -> dict[str, Any]:
    """List runs, newest first."""
    found = open_store(args).runs()
    rows = [
        [
            run["id"],
            run["status"],
            run["recipe"],
            run["name"],
            run["started"].replace("T", " ")[:19],
            run["error"] or "",
        ]
        for run in found
    ]
    if rows:
        table(["run", "status", "recipe", "name", "started (UTC)", "error"], rows)
    else:
        stderr().print("no runs yet")
    return {"runs": found}


def logs(args: argparse.Namespace) -> dict[str, Any]:
    """Print what a run said; with -f go on until it ends."""
    store = open_store(args)
    run = store.get_run(args.run)
    family = [run["id"], *(row["id"] for row in reversed(store.runs()) if row["parent"] == run["id"])]
    if run["recipe"] != "pipeline":
        family = [run["id"]]
    shown = 0
    while True:
        events = [event for id in family for event in read_events(store.events_path(id), id)]
        for event in events[shown:]:
            line = _line(event)
            if line:
                stdout().print(line, markup=False)
        shown = len(events)
        if not args.follow or store.get_run(run["id"])["status"] != "running":
            return {"run": run["id"], "events": shown}
        time.sleep(0.5)
        store.mark_interrupted()
        family += [
            row["id"] for row in reversed(store.runs()) if row["parent"] == run["id"] and row["id"] not in family
        ]


def _line(event: Event) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    if event.kind == "log":
        return f"{clock} {event.data['level']:<7} {event.data['text']}"
    if event.kind == "progress":
        return f"{clock} {'working':<7} {Progressing(False)._describe(event)}"
    values = " ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in event.data.items())
    return f"{clock} {event.kind:<7} {values}"


def stop(args: argparse.Namespace) -> dict[str, Any]:
    """Ask a run to stop at its next safe point, and wait until it has."""
    store = open_store(args)
    run = store.get_run(args.run)
    if run["status"] != "running":
        raise BadInput(f"run {run['id']} is not running, it is {run['status']}", hint="`mojiang runs` lists what runs")
    if run["host"] != socket.gethostname():
        raise BadInput(f"run {run['id']} runs on {run['host']}", hint=f"give `mojiang stop {run['id']}` there")
    try:
        os.kill(run["pid"], signal.SIGINT)
    except OSError as error:
        raise Unavailable(f"run {run['id']} (process {run['pid']}) cannot be reached: {error.strerror}") from error
    stderr().print(f"asked {run['id']} ({run['recipe']}) to stop; its work so far is kept")
    deadline = time.monotonic() + 60
    while store.get_run(run["id"])["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
        store.mark_interrupted()
    status = store.get_run(run["id"])["status"]
    if status == "running":
        raise Unavailable(
            f"run {run['id']} has not stopped yet", hint="it stops at its next safe point; look again soon"
        )
    return {"run": run["id"], "status": status}


def resume(args: argparse.Namespace) -> dict[str, Any]:
    """Continue a run that was interrupted or failed."""
    store = open_store(args)
    run = store.get_run(args.run)
    if run["status"] in ("done", "running"):
        raise BadInput(f"run {run['id']} is {run['status']}", hint="only an interrupted or failed run can be resumed")
    catalog = load_catalog()
    if run["recipe"] == "pipeline":
        from mojiang.cli.pipelines import execute_pipeline
        from mojiang.recipes._pipeline import Pipeline

        args.seed, args.start = run["seed"], ""
        return execute_pipeline(decode(Pipeline, run["config"], run["name"]), store, args)
    recipe = decode(catalog.get(run["recipe"]).load(), run["config"], run["recipe"])
    outcome = execute(recipe, store, name=run["name"], seed=run["seed"], circumstance=circumstance(args))
    print_outcome(outcome)
    return record(outcome)

"""Searching settings: the study that Optuna keeps, one trial of it, and what is found.

A trial is an ordinary run of the store. Which settings a trial gets is a function of (seed, its number, the trials
before it), so a study that was killed goes on as if it had not been, and a longer one begins with the shorter one's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from mojiang.core.config import Config, canonical, digest
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadUsage, Interrupted, MojiangError, Unavailable
from mojiang.core.events import Event, Listener, read_curves
from mojiang.core.files import remove_tree
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, Run, execute
from mojiang.core.store import Store

SamplerName = Literal["tpe", "random", "grid"]
PrunerName = Literal["none", "median", "hyperband"]
LOOK_SECONDS = 0.5
"""How often parallel trials are told that the user wants to stop."""
FRESH = 4
"""Trials that end before the median prunes."""


class Range(Config):
    """Numbers from low to high; whole ones when both ends are whole."""

    low: int | float
    """The lowest."""
    high: int | float
    """The highest, which may be taken too."""
    log: bool = False
    """Even in the logarithm, as learning rates want it."""
    step: int | float | None = Field(None, gt=0)
    """Distance between two values; left out: any number."""

    @model_validator(mode="after")
    def _possible(self) -> Range:
        if not self.low < self.high or (self.log and (self.low <= 0 or self.step is not None)):
            raise ValueError(f"low {self.low} and high {self.high}: low < high, and with log 0 < low and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    def values(self) -> list[Any]:
        """Every value; `BadUsage` where there is no end of them."""
        if self.step is None and not self.whole:
            raise BadUsage(f"a grid over {self.low} … {self.high}", hint="give step, or a list of values")
        step = self.step or 1
        return [self.low + n * step for n in range(math.floor((self.high - self.low) / step + 1e-9) + 1)]


Space = dict[str, Range | list[JsonValue]]


@dataclass(frozen=True)
class Plan:
    """What is searched for, and how; `folder` holds the study."""

    folder: Path
    space: Space
    metric: str
    direction: str
    sampler: SamplerName
    pruner: PrunerName
    seed: int

    def study(self, number: int = 0) -> Any:
        """The study as it is now, with the sampler of trial `number`."""
        optuna = import_optuna()
        path = self.folder / "study.journal"
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        return optuna.create_study(
            storage=storage, study_name="sweep", direction=self.direction, load_if_exists=True,
            sampler=self._sampler(optuna, number), pruner=self._pruner(optuna),
        )  # fmt: skip

    def _sampler(self, optuna: Any, number: int) -> Any:
        seed = int(digest([self.seed, number])[:8], 16)
        return optuna.samplers.TPESampler(seed=seed) if self.sampler == "tpe" else optuna.samplers.RandomSampler(seed)

    def _pruner(self, optuna: Any) -> Any:
        if self.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=FRESH)
        return optuna.pruners.HyperbandPruner() if self.pruner == "hyperband" else optuna.pruners.NopPruner()

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last setting changing fastest."""
        axes = [axis.values() if isinstance(axis, Range) else axis for axis in self.space.values()]
        return [dict(zip(self.space, values, strict=True)) for values in product(*axes)]

    def chosen(self, trial: Any) -> dict[str, Any]:
        """A trial's settings: those it has, or new ones."""
        if self.sampler == "grid":
            optuna, grid = import_optuna(), self.grid()
            for name in self.space:
                labels = list(dict.fromkeys(canonical(one[name]) for one in grid))
                axis, label = optuna.distributions.CategoricalDistribution(labels), canonical(grid[trial.number][name])
                trial.storage.set_trial_param(trial._trial_id, name, axis.to_internal_repr(label), axis)
            return dict(grid[trial.number])
        return {name: _suggest(trial, name, axis) for name, axis in self.space.items()}


def _suggest(trial: Any, name: str, axis: Range | list[JsonValue]) -> Any:
    if isinstance(axis, list):
        labels = [canonical(choice) for choice in axis]  # Optuna takes words and numbers, and we lists as well
        return axis[labels.index(trial.suggest_categorical(name, labels))]
    if axis.whole:
        return trial.suggest_int(name, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
    return trial.suggest_float(name, float(axis.low), float(axis.high), step=axis.step, log=axis.log)


def import_optuna() -> Any:
    """Optuna, without its chatter."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise Unavailable("train.sweep needs Optuna", hint="pip install 'mojiang[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def mend(folder: Path) -> None:
    """Undo what a kill in the middle of a write left of a study: a torn last line and a lock. Only one process may."""
    path = folder / "study.journal"
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


@dataclass(frozen=True)
class Task:
    """One trial, as a process needs it."""

    plan: Plan
    trial: int
    """Optuna's id of it."""
    recipe: Recipe
    name: str
    workspace: Path
    url: str
    device: str
    parent: str
    listeners: tuple[Listener, ...] = ()
    cores: tuple[int, ...] = ()
    """The cores that this trial may use; none given: all."""


@dataclass(frozen=True)
class Trial:
    """How a trial went."""

    state: Literal["done", "pruned", "failed"]
    ref: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


class Watcher:
    """Listens to a trial's run: hands its figures to the pruner, and ends it when the pruner or the user says so."""

    def __init__(self, task: Task, store: Store) -> None:
        self.task, self.store, self.run, self.pruned = task, store, "", ""
        self.study = task.plan.study() if task.plan.pruner != "none" else None

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        if event.kind not in ("metrics", "progress"):
            return
        self.run = event.run
        if (self.task.plan.folder / "stop").exists():
            raise Interrupted("the sweep was stopped", hint="the same command continues from here")
        value = event.data.get(self.task.plan.metric) if event.kind == "metrics" else None
        if self.study is not None and isinstance(value, int | float):
            self.report(event.run, int(event.data["step"]), float(value))
            frozen = self.study._storage.get_trial(self.task.trial)
            if self.study.pruner.prune(self.study, frozen):
                self.pruned = f"pruned at step {event.data['step']}: {self.task.plan.metric} {value:.5g}"
                raise Interrupted(self.pruned)

    def report(self, run: str, step: int, value: float) -> None:
        """Tell the study a figure; counted are validations, those of earlier attempts too."""
        steps, _ = read_curves(self.store.events_path(run)).get(self.task.plan.metric, ([], []))
        assert self.study is not None
        number = 1 + sum(earlier < step for earlier in steps)
        self.study._storage.set_trial_intermediate_value(self.task.trial, number, value)


def run_trial(task: Task) -> Trial:
    """Run one trial, or find what it made before.

    Raises:
        Interrupted: the user wants to stop.
    """
    store = Store(task.workspace, task.url)
    watcher = Watcher(task, store)
    engine = LocalEngine(workers=len(task.cores) or None)
    listeners: tuple[Listener, ...] = (*task.listeners, watcher)
    circumstance = Circumstance(device=task.device, engine=engine, listeners=listeners, parent=task.parent)
    try:
        with _on(task.cores):
            outcome = execute(task.recipe, store, name=task.name, seed=task.plan.seed, circumstance=circumstance)
        if outcome.reused and watcher.study is not None:
            curve = read_curves(store.events_path(outcome.run)).get(task.plan.metric, ([], []))
            for step, value in zip(*curve, strict=True):
                watcher.report(outcome.run, step, value)
        return Trial("done", outcome.artifact.ref, outcome.artifact.metrics)
    except Interrupted:
        if not watcher.pruned:
            raise
        fingerprint = store.get_run(watcher.run)["fingerprint"]
        remove_tree(store.workspace / "scratch" / fingerprint)  # nobody is to continue it
        return Trial("pruned", text=watcher.pruned)
    except MojiangError as error:
        return Trial("failed", text=error.message)
    finally:
        engine.close()


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """Keep to these cores, so that trials side by side do not fight for all of them."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def shares_of_cores(parallel: int) -> list[tuple[int, ...]]:
    """The cores of each of so many trials; empty ones where there are too few to share."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [tuple(cores[slot::parallel]) if 1 < parallel <= len(cores) else () for slot in range(parallel)]


@contextmanager
def told_to_stop(run: Run, folder: Path) -> Iterator[None]:
    """While trials run in other processes: leave them word when the user asks to stop."""
    (folder / "stop").unlink(missing_ok=True)
    over = Flag()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if run.stopping:
                (folder / "stop").touch()
                return

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's: 1 when both always rise together, −1 when one falls as the other rises; 0 where one never moves.

    >>> rank_correlation([1, 2, 3], [10, 100, 1000]), rank_correlation([1, 1], [1, 2])
    (1.0, 0.0)
    """
    ranks = [_ranks(xs), _ranks(ys)]
    means = [sum(row) / len(row) for row in ranks]
    apart = [[rank - mean for rank in row] for row, mean in zip(ranks, means, strict=True)]
    norm = math.sqrt(sum(d * d for d in apart[0]) * sum(d * d for d in apart[1]))
    return sum(a * b for a, b in zip(*apart, strict=True)) / norm if norm else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Each value's place; equal ones share the mean of their places."""
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]

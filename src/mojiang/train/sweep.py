"""Search the settings of a recipe that give the best value of a metric."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.config import canonical
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import MojiangError, RunFailed
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.report import Cell, Finding, Report, Series, Table
from mojiang.core.run import Run
from mojiang.train._nested import assigned, figure, from_words, name_of, set_up
from mojiang.train._search import (
    Plan,
    PrunerName,
    Range,
    SamplerName,
    Space,
    Task,
    Trial,
    import_optuna,
    mend,
    rank_correlation,
    run_trial,
    shares_of_cores,
    told_to_stop,
)

HOPELESS = 3
"""So many trials that failed, and none that did not, end a sweep."""
FEWEST = 5
"""Trials it takes to say which setting matters."""
BORDER = 0.05
"""A best value that near to an end of its range, as a share of the range, may lie beyond it."""


class Sweep(Recipe):
    """Try settings of a recipe, each as an ordinary run, and report which are best and which matter.

    Settings are numbers in a range (`{"optim.learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}}`) or lists of
    values, given by the same names as on the command line. The artifact of the best trial gets the alias `best`. A
    sweep that was killed goes on where it was; the same sweep with more `trials` begins with the trials there are.

    When not to use: to choose between a few settings whose differences are smaller than those between two seeds; and
    on the test split, which then no longer measures anything: choose by a validation metric.
    Source: Akiba et al. 2019 (Optuna); Bergstra et al. 2011 (TPE); Li et al. 2018 (Hyperband); Watanabe et al. 2023
    (PED-ANOVA).
    Example:
        >>> Sweep(of="train.classify", data="reviews", model="bert", metric="validation_accuracy",
        ...       space={"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "batch_size": [16, 32]}).trials
        20
    """

    recipe: ClassVar[str] = "train.sweep"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "report"
    stochastic: ClassVar[bool] = True

    of: str
    """The recipe to try, such as train.classify."""
    data: DatasetRef | None = None
    """Its dataset."""
    model: ModelRef | None = None
    """Its model, if it takes one."""
    tokenizer: TokenizerRef | None = None
    """Its tokenizer, if it takes one; other artifacts go into `settings` by their fingerprints."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings that are the same in every trial, as JSON or YAML."""
    space: Space = Field(min_length=1)
    """Setting → {low, high, log, step} or a list of values, as JSON or YAML."""
    metric: str = "validation_loss"
    """What is to be best: a metric of the artifacts (`mojiang show` lists them)."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether lower or higher is better."""
    trials: int = Field(20, ge=1, le=10_000)
    """How many settings to try; a grid that is smaller ends sooner."""
    sampler: SamplerName = "tpe"
    """tpe learns from the trials before, random does not, grid takes every combination in turn."""
    pruner: PrunerName = "none"
    """median, hyperband: end trials whose validations fall behind those of the others."""
    parallel: int = Field(1, ge=1, le=256)
    """Trials at once, each in its process with its share of the cores; the next ones are chosen when all have ended."""

    _parse = field_validator("settings", "space", mode="before")(from_words)

    @model_validator(mode="after")
    def _apart(self) -> Sweep:
        if both := sorted(set(self.settings) & set(self.space)):
            raise ValueError(f"{both[0]!r} is in settings and in space; give it once")
        for name, axis in self.space.items():
            if isinstance(axis, list) and len({canonical(value) for value in axis}) != len(axis) or axis == []:
                raise ValueError(f"the values of {name!r} are {axis}; give some, and none twice")
        return self

    def run(self, run: Run) -> Metrics:
        """Try, and report."""
        import_optuna()
        mend(run.scratch)
        plan = Plan(
            run.scratch, self.space, self.metric, self.direction, self.sampler, self.pruner, run.seed
        )  # fmt: skip
        trials = min(self.trials, len(plan.grid())) if self.sampler == "grid" else self.trials
        engine = LocalEngine(self.parallel)
        try:
            with told_to_stop(run, run.scratch):
                while self._batch(run, plan, trials, engine):
                    run.check_stop()
        finally:
            engine.close()
        found = _Found(self, plan.study())
        report = found.report()
        report.save(run.out)
        best = found.best
        run.store.alias(run.store.get(best.user_attrs["ref"]), "best")
        return {**report.scalars, "best": best.user_attrs["ref"]}

    def _batch(self, run: Run, plan: Plan, trials: int, engine: LocalEngine) -> bool:
        """Run trials that a kill left open, and new ones, as many as run side by side; whether there were any."""
        optuna = import_optuna()
        study = plan.study()
        known = study.get_trials(deepcopy=False)
        still = [one for one in known if not one.state.is_finished()][: self.parallel]
        opened = [optuna.trial.Trial(plan.study(one.number), one._trial_id) for one in still]
        for number in range(len(known), min(trials, len(known) + self.parallel - len(opened))):
            opened.append(plan.study(number).ask())
        if not opened:
            return False
        tasks, results = [], dict[int, Trial]()
        cores = shares_of_cores(len(opened))
        for slot, trial in enumerate(opened):
            settings = plan.chosen(trial)
            try:
                task = self._task(run, plan, trial, settings, cores[slot])
            except MojiangError as error:
                results[trial.number] = Trial("failed", text=error.message)
                continue
            tasks.append((trial.number, task))
        for (number, _), result in zip(tasks, engine.map(run_trial, [task for _, task in tasks]), strict=True):
            results[number] = result
        for trial in opened:
            self._tell(run, study, trial, results[trial.number])
            run.progress(trial.number + 1, trials, unit="trials")
        self._refuse_hopeless(study)
        return True

    def _task(self, run: Run, plan: Plan, trial: Any, settings: dict[str, Any], cores: tuple[int, ...]) -> Task:
        where = f"{self.of} of trial {trial.number}"
        recipe = set_up(run, self.of, assigned(self.settings, settings), ("data", "model", "tokenizer"), where)
        here = run.circumstance
        return Task(
            plan, trial._trial_id, recipe, f"{name_of(run)}-trial", run.store.workspace, run.store.url, here.device,
            run.id, here.listeners if not cores and self.parallel == 1 else (), cores,
        )  # fmt: skip

    def _tell(self, run: Run, study: Any, trial: Any, result: Trial) -> None:
        """Put a trial's outcome into the study."""
        states = import_optuna().trial.TrialState
        value = math.nan
        if result.state == "done":
            value = figure(result.metrics, self.metric, f"{self.of} ({result.ref})")
        trial.set_user_attr("ref", result.ref)
        trial.set_user_attr("text", result.text or ("" if math.isfinite(value) else f"{self.metric} is {value}"))
        if result.state == "pruned":
            study.tell(trial.number, state=states.PRUNED)
        elif math.isfinite(value):
            study.tell(trial.number, value)
        else:
            study.tell(trial.number, state=states.FAIL)
        shown = f"{self.metric} {value:.5g}" if result.state == "done" else f"{result.state}: {result.text}"
        run.log(f"trial {trial.number}: {shown}, with {canonical(trial.params)}")

    def _refuse_hopeless(self, study: Any) -> None:
        known = study.get_trials(deepcopy=False)
        failed = [trial for trial in known if trial.state.name == "FAIL"]
        if len(failed) >= min(HOPELESS, self.trials) and len(failed) == len(known):
            raise RunFailed(
                f"the first {len(failed)} trials failed: {failed[0].user_attrs['text']}",
                hint=f"try {self.of} alone with these settings",
            )


@dataclass
class _Found:
    """A finished study, turned into a report."""

    sweep: Sweep
    study: Any

    def __post_init__(self) -> None:
        self.all = self.study.get_trials(deepcopy=False)
        self.done = [trial for trial in self.all if trial.state.name == "COMPLETE"]
        if not self.done:
            raise RunFailed("no trial came to its end", hint=f"try {self.sweep.of} alone")

    @property
    def best(self) -> Any:
        """The best trial; the first of several."""
        sign = 1 if self.sweep.direction == "minimize" else -1
        return min(self.done, key=lambda trial: (sign * trial.value, trial.number))

    def report(self) -> Report:
        """Trials, the best settings, which of them matter, and how the best value came about."""
        best, states = self.best, [trial.state.name for trial in self.all]
        scalars = {"best_value": best.value, "best_trial": best.number, "trials": len(self.all)}
        scalars |= {"done": len(self.done), "pruned": states.count("PRUNED"), "failed": states.count("FAIL")}
        names = list(self.sweep.space)
        rows: list[list[Cell]] = [
            [trial.number, trial.state.name.lower(), trial.value, *(self._shown(trial, name) for name in names),
             trial.user_attrs.get("ref") or trial.user_attrs.get("text")]
            for trial in self.all
        ]  # fmt: skip
        winner: list[list[Cell]] = [[name, self._shown(best, name)] for name in names]
        tables = [
            Table(title="best settings", columns=["setting", "value"], rows=winner),
            Table(title="trials", columns=["trial", "state", self.sweep.metric, *names, "artifact"], rows=rows),
        ]
        if len(self.done) >= FEWEST and len({trial.value for trial in self.done}) > 1:
            tables.append(self._importance(names))
        return Report(
            title=f"Sweep of {self.sweep.of}", scalars=scalars, tables=tables, series=[self._progress()],
            findings=self._findings(best), verdict=f"trial {best.number}: {self.sweep.metric} {best.value:.5g} "
            f"({best.user_attrs['ref']}) is the best of {len(self.done)}",
        )  # fmt: skip

    def _shown(self, trial: Any, name: str) -> Cell:
        value = trial.params.get(name)
        if isinstance(self.sweep.space[name], list) or self.sweep.sampler == "grid":  # Optuna has their JSON
            meant = json.loads(value) if value is not None else None
            return meant if isinstance(meant, int | float | str | None) else str(value)
        return value if isinstance(value, int | float) else None

    def _importance(self, names: Sequence[str]) -> Table:
        """PED-ANOVA: what of being among the best is due to a setting; and whether more of it is higher or lower."""
        shares = import_optuna().importance.get_param_importances(self.study)
        values = [trial.value for trial in self.done]
        rows: list[list[Cell]] = []
        for name in sorted(names, key=lambda name: -shares.get(name, 0.0)):
            numbers = [trial.params[name] for trial in self.done]
            numeric = isinstance(self.sweep.space[name], Range) and self.sweep.sampler != "grid"
            rows.append([name, round(shares.get(name, 0.0), 3), rank_correlation(numbers, values) if numeric else None])
        return Table(title="importance", columns=["setting", "share", "rank correlation"], rows=rows)

    def _progress(self) -> Series:
        better = min if self.sweep.direction == "minimize" else max
        ordered = [trial.value for trial in self.done]
        return Series(
            title="best so far", x_label="trial", y_label=self.sweep.metric, x=[trial.number for trial in self.done],
            lines={"best": [better(ordered[: n + 1]) for n in range(len(ordered))], "trial": ordered},
        )  # fmt: skip

    def _findings(self, best: Any) -> list[Finding]:
        text = "all trials have one seed: try the best few with others before trusting small differences"
        findings = [Finding(level="info", text=text)]
        for name, axis in self.sweep.space.items():
            value = best.params[name]
            if isinstance(axis, Range) and self.sweep.sampler != "grid":
                low, high, at = axis.low, axis.high, value
                if axis.log:
                    low, high, at = math.log(low), math.log(high), math.log(at)
                if min(at - low, high - at) <= BORDER * (high - low):
                    text = f"the best {name}, {value:.4g}, lies at an end of its range: widen it"
                    findings.append(Finding(level="warning", text=text))
        if self.sweep.pruner != "none" and not any(trial.intermediate_values for trial in self.all):
            text = f"nothing could be pruned: no run says {self.sweep.metric} on its way"
            findings.append(Finding(level="warning", text=text))
        if self.sweep.metric.startswith("test_"):
            text = f"{self.sweep.metric} chose the settings and so is too good to be true: report another split"
            findings.append(Finding(level="warning", text=text))
        return findings

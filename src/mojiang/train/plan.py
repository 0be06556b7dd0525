"""What a training will take, before it is begun: parameters, memory, speed and time, and how right that was before."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, JsonValue, field_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadUsage
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.report import Cell, Finding, Report, Table
from mojiang.core.run import Run, rehearse
from mojiang.core.store import now
from mojiang.train._nested import from_words, set_up

LAST = 10
"""Trainings whose plans are compared with what became of them."""


class Plan(Recipe):
    """Say what a training recipe will take on this machine, without training: memory by parts, tokens/s, time.

    The recipe prepares its data and model as it would to train (the training finds them ready), takes one pass that
    keeps count of every tensor, compiles if the training would, and times a few steps. What cannot fit is refused with
    what would. Every training then records what it took beside what was planned, and plans show how far those were.

    When not to use: for less than a minute of training: planning takes longer. Trainings on several ranks are planned
    for one.
    Source: Rajbhandari et al. 2020 (what training keeps in memory); steps timed on this machine.
    Example:
        >>> Plan(of="train.pretrain", data="corpus", tokenizer="bpe", settings={"minutes": 5}).of
        'train.pretrain'
    """

    recipe: ClassVar[str] = "train.plan"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "report"
    stochastic: ClassVar[bool] = True

    of: str
    """The recipe to plan, such as train.pretrain."""
    data: DatasetRef | None = None
    """Its dataset."""
    model: ModelRef | None = None
    """Its model, if it takes one."""
    tokenizer: TokenizerRef | None = None
    """Its tokenizer, if it takes one; other artifacts go into `settings` by their fingerprints."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Its settings, as JSON or YAML."""
    asked: str = Field(default_factory=now)
    """When; a plan holds for the machine as it is, so that each is made anew."""

    _parse = field_validator("settings", mode="before")(from_words)

    def run(self, run: Run) -> Metrics:
        """Rehearse, and report."""
        recipe = set_up(run, self.of, self.settings, ("data", "model", "tokenizer"), self.of)
        try:
            rehearse(run, recipe)
        except Exception as found:
            from mojiang.train._forecast import Foreseen

            if not isinstance(found, Foreseen):
                raise
            report = self._report(run, found)
            report.save(run.out)
            return dict(report.scalars)
        raise BadUsage(f"{self.of} does not train by gradient", hint="plan one of the recipes under `mojiang train`")

    def _report(self, run: Run, found: Any) -> Report:
        forecast, training = found.forecast, found.training
        settings = training.settings
        trained = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
        scalars = {
            "parameters": training.model.num_parameters(), "trained_parameters": trained,
            "memory_mb": round(forecast.memory / 1e6, 1), "room_mb": round(forecast.room / 1e6, 1),
            "steps": settings.num_steps, "step_seconds": round(forecast.step_seconds, 4),
            "tokens_per_second": round(forecast.tokens_per_second, 1),
            "compile_seconds": round(forecast.compile_seconds, 1),
            "train_seconds": round(forecast.seconds, 1),
        }  # fmt: skip
        parts = ("program", "weights", "gradients", "optimizer", "activations", "checkpoint")
        memory: list[list[Cell]] = [[part, round(getattr(forecast, part) / 1e6, 1)] for part in parts]
        how: list[list[Cell]] = [
            ["precision", settings.precision], ["compiled", "yes" if training.compiled else "no"],
            ["rows a step", settings.batch_rows], ["micro-batch", settings.micro],
            ["optimizer", settings.optim.optimizer], ["validations", settings.watch.validations],
        ]  # fmt: skip
        before = earlier_plans(run, self.of)
        tables = [
            Table(title="memory at the peak, MB", columns=["part", "MB"], rows=memory),
            Table(title="how it would train", columns=["setting", "value"], rows=how),
        ]
        if before:
            columns = ["training", "memory, MB", "planned", "error, %", "time, s", "planned", "error, %"]
            tables.append(Table(title="plans so far and what became of them", columns=columns, rows=before))
        return Report(
            title=f"Plan of {self.of}", scalars=scalars, tables=tables, findings=self._findings(forecast, before),
            verdict=f"{forecast.memory / 2**30:.2f} of {forecast.room / 2**30:.1f} GiB, "
            f"{forecast.seconds / 60:.1f} minutes",
        )  # fmt: skip

    def _findings(self, forecast: Any, before: list[list[Cell]]) -> list[Finding]:
        found = []
        if not forecast.activations:
            found.append(Finding(level="info", text="what a micro-batch adds to the memory could not be tried before"))
        if forecast.memory > 0.9 * forecast.room:
            found.append(Finding(level="warning", text="more than 90 % of the memory: other programs may not fit"))
        for column, what in ((3, "memory"), (6, "time")):
            errors = sorted(abs(error) for row in before if isinstance(error := row[column], int | float))
            if errors:
                text = f"{what} was planned within {errors[len(errors) // 2]:.1f} % in the middle of {len(errors)}"
                found.append(Finding(level="info", text=text))
        return found


def earlier_plans(run: Run, of: str) -> list[list[Cell]]:
    """What the last trainings by this recipe took, beside what was planned."""
    rows: list[list[Cell]] = []
    for artifact in run.store.artifacts("model"):
        metrics = artifact.metrics
        if not artifact.manifest.recipe.startswith(f"{of}@") or "planned_memory_mb" not in metrics:
            continue
        row: list[Cell] = [artifact.ref]
        for taken, planned in (("peak_memory_mb", "planned_memory_mb"), ("train_seconds", "planned_seconds")):
            is_, was = metrics.get(taken), metrics.get(planned)
            if not isinstance(is_, int | float) or not isinstance(was, int | float) or not is_:
                row += [None, None, None]
            else:
                row += [is_, was, round(100 * (was - is_) / is_, 1)]
        rows.append(row)
    return rows[-LAST:]

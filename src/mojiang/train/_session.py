"""The way every training recipe goes once it has a model, an objective and a source of batches.

Settle the settings (or find those of the first attempt), compile, continue from a checkpoint, train, say how it went.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from mojiang.core.engine import thread_count
from mojiang.core.files import atomic_write
from mojiang.core.recipe import Metrics
from mojiang.core.run import Followed, Run
from mojiang.model.network import Network
from mojiang.train._batches import Source
from mojiang.train._compile import COMPILE_FLOPS
from mojiang.train._float8 import check_float8, obstacle, pays
from mojiang.train._forecast import Forecast, Foreseen, compared, foresee, forget_peak, tried
from mojiang.train._loop import Result, Training, fit
from mojiang.train._memory import keep_freed_memory, probe_micro
from mojiang.train._objective import Objective
from mojiang.train._parallel import World, join
from mojiang.train._peak import fast_dtype, measure_peak
from mojiang.train._precision import DTYPES, dtype_of
from mojiang.train._progress import flops_per_token, unit_of
from mojiang.train._settings import Compute, Length, Optim, Settings, Watch

MICRO_TOKENS = 8192
"""Tokens at once on a CPU, when not said: more bring no speed there, and memory for the logits is short first."""
BUDGET_SHARE = 0.94
"""Of a budget of minutes: the rest is for writing the model, and for steps slower than those that were timed."""
MICROS_PER_STAGE = 4
"""Micro-batches for each rank of a pipeline: with m for p ranks, each waits for (p - 1) / (m + p - 1) of a step."""
LOOKED_AT = 32
"""Batches of which memory is planned by the largest."""
VALIDATION_SHARE = 0.25
"""Of a budget of minutes, for all validations together, the first excepted."""


@dataclass
class Job:
    """What a recipe hands over to be trained."""

    model: Network
    objective: Objective
    source: Source
    batch_rows: int
    length: Length
    optim: Optim
    compute: Compute
    watch: Watch
    context: int = 0
    """Longest sequence."""
    row_cost: int = 1
    """Cost of a row in the unit of `micro`, for the FLOPs of a step: tokens, or 1."""
    max_epochs: float = float("inf")
    """With minutes: more passes than this only learn by heart."""
    started: float | None = None
    """`time.monotonic()` at which the minutes began."""
    num_threads: int = 0
    """Threads of the training; 0 for all cores this process may use."""
    before: bool = False
    """Whether validation is measured before the first step too."""


def train(run: Run, job: Job) -> tuple[Training, Result]:
    """Train; what the caller has left to do is to save `training.model`."""
    keep_freed_memory()
    world = join(job.compute.parallel, run)
    saved = world.agreed(_saved_settings(run))
    settings = saved or world.agreed(_settings(run, job, world) if world.is_first else None)
    training = Training(job.model, job.objective, settings, run, world)
    if saved is None and job.compute.micro is None and run.device == "cuda" and world.stages == 1:
        settings = training.settings = replace(settings, micro=world.agreed(_fitting_micro(training, job)))
    largest = _largest_batch(job.source, settings)
    forecast = foresee(training, largest)
    if settings.compile:
        forecast = _compile(training, job, forecast)
    forecast = tried(training, largest, forecast)
    forget_peak()
    if saved is None:
        forecast = _settle(training, job, forecast)
    elif training.resume():
        forecast = Forecast.load(run.scratch / "forecast.json") or forecast
        run.log(f"continuing at step {training.step} of {settings.num_steps}")
    run.log(describe(training, job))
    if job.before and training.step == 0 and settings.watch.validations:
        run.metrics(0, **(training.first or training.measure()))
    result = fit(training, job.source)
    result = replace(result, planned=compared(forecast, training, result.seconds))
    world.release(training.model)
    if not world.is_first:
        raise Followed
    return training, result


def _largest_batch(source: Source, settings: Settings) -> Any:
    """Of the first steps' batches the one with the largest micro-batch: rows differ in length, and memory by them."""
    batches = (source.batch(step) for step in range(min(LOOKED_AT, settings.num_steps)))
    return max(batches, key=lambda batch: max(batch.take(rows).num_tokens for rows in batch.micro(settings.micro)))


def _settle(training: Training, job: Job, forecast: Forecast) -> Forecast:
    """Decide on what steps had to be timed for, and begin; a rehearsal ends here.

    Raises:
        Foreseen: in a rehearsal.
    """
    run, world = training.run, training.world
    settings = replace(training.settings, compile=training.compiled)
    if job.length.minutes is not None or run.circumstance.rehearsal:
        forecast = world.agreed(_timed(training, job, forecast))
    if job.length.minutes is not None:
        settings = _fitted(training, job, settings, forecast)
    first = training.first
    training.begin(settings)
    training.first = first
    forecast = _of_all(training, forecast)
    if run.circumstance.rehearsal:
        raise Foreseen(forecast, training)
    if world.is_first:
        atomic_write(run.scratch / "settings.json", json.dumps(settings.to_dict()))
    return forecast


def describe(training: Training, job: Job) -> str:
    """The plan in one line."""
    s = training.settings
    epochs = s.num_steps / job.source.steps_per_epoch
    size = training.world.outline(training.model).num_parameters() / 1e6
    return (
        f"plan: {size:.1f} M parameters, {s.num_steps} steps of {s.batch_rows} rows "
        f"({epochs:.1f} epochs), {s.precision}{', compiled' if training.compiled else ''}"
    )


def outcome(training: Training, result: Result, job: Job) -> Metrics:
    """The metrics every trained model has."""
    unit = unit_of(training)
    metrics: Metrics = {
        "parameters": training.model.num_parameters(), "steps": result.steps,
        unit if unit == "tokens" else f"{unit}_seen": result.tokens,
        "epochs": round(result.steps / job.source.steps_per_epoch, 3), "loss": round(result.loss, 5),
        "train_seconds": round(result.seconds, 2),
        f"{unit}_per_second": round(result.tokens / max(result.seconds, 1e-9), 1),
        "precision": training.settings.precision, "compiled": int(result.compiled),
    }  # fmt: skip
    metrics |= result.planned
    if training.settings.watch.restores_best:
        metrics["best_step"] = result.best_step
    for name, value in training.first.items():
        metrics[f"{name}_before"] = round(value, 5)
    for name, value in result.validation.items():
        metrics[name if name.startswith("validation") else f"validation_{name}"] = round(value, 5)
    return metrics


def precision_of(run: Run, compute: Compute) -> str:
    """The precision of this run: that of its first attempt, or as asked, or the fastest here."""
    if compute.precision == "fp8":
        check_float8(run.device, parallel=compute.parallel)
        return "fp8"
    path = run.scratch / "precision"  # measured by the first rank: others might see another winner
    if not path.exists():
        dtype = fast_dtype(run.device, compute.precision)
        atomic_write(path, next(name for name, known in DTYPES.items() if known == dtype))
    return path.read_text()


def _saved_settings(run: Run) -> Settings | None:
    path = run.scratch / "settings.json"
    return Settings.from_dict(json.loads(path.read_text())) if path.exists() else None


def _settings(run: Run, job: Job, world: World) -> Settings:
    precision = _precision(run, job)
    per_epoch = job.source.steps_per_epoch
    # A budget of minutes may end sooner than an epoch: at about 0.6 s a step, compiling must earn its time in it.
    guess = 60 * (job.length.minutes or 0) / 0.6
    num_steps = job.length.steps or max(1, round(per_epoch * (job.length.epochs or 0) or guess))
    work = flops_per_token(job.model, job.context) * num_steps * job.batch_rows * job.row_cost
    compile = job.compute.compile == "on" or (job.compute.compile == "auto" and work > COMPILE_FLOPS)
    return Settings(
        num_steps=num_steps, batch_rows=job.batch_rows, micro=job.compute.micro or _usual_micro(job, world),
        optim=job.optim, watch=job.watch, precision=precision, compile=compile,
        checkpointing=job.compute.checkpointing, num_threads=job.num_threads or thread_count(), context=job.context,
        row_cost=job.row_cost, peak_flops=measure_peak(run.device, dtype_of(precision)) if job.context else 0.0,
    )  # fmt: skip


def _precision(run: Run, job: Job) -> str:
    """That of the run; fp8 in the place of bf16 where the model's matrices were seen to gain by it."""
    asked, model, parallel = job.compute.precision, job.model, job.compute.parallel
    precision = precision_of(run, job.compute)
    if asked == "fp8":
        check_float8(run.device, model, parallel)
    if asked == "auto" and precision == "bf16" and obstacle(run.device, model, parallel) is None:
        return "fp8" if pays(model, min(MICRO_TOKENS, job.batch_rows * job.row_cost)) else "bf16"
    return precision


def _usual_micro(job: Job, world: World) -> int:
    """Tokens (or rows) at once where none are given; in a pipeline so few that its ranks seldom wait for each other."""
    most = max(MICRO_TOKENS, job.context)
    if world.stages == 1:
        return most
    return min(most, max(job.context, job.batch_rows * job.row_cost // (MICROS_PER_STAGE * world.stages)))


def _fitting_micro(training: Training, job: Job) -> int:
    """As many tokens (or rows) at once as this GPU has room for, with the optimizer's state already there."""
    batch = job.source.batch(0)
    kept = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.advance(batch.take(range(training.world.size)))  # makes the optimizer's state

    def compute(budget: int) -> None:
        rows = next(batch.micro(budget))
        sum(job.objective.losses(training.model, batch.take(rows)).values()).backward()  # type: ignore[union-attr]
        training.model.zero_grad(set_to_none=True)

    most = len(batch) * max(1, job.context)
    found = probe_micro(compute, most, max(1, job.context))
    training.model.load_state_dict(kept)
    return found


def _compile(training: Training, job: Job, forecast: Forecast) -> Forecast:
    """Compile, and say how long that took."""
    began = time.monotonic()
    example = job.source.batch(0)
    with training.world.alone():
        training.compile(example.take(next(example.micro(training.settings.micro))))
    return replace(forecast, compile_seconds=time.monotonic() - began)


def _timed(training: Training, job: Job, forecast: Forecast) -> Forecast:
    """With the seconds of a step and of a validation, from a few of them; the weights are as they were before."""
    kept = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    seconds, tokens = [], 0
    for step in range(4):
        batch = job.source.batch(step)
        began = time.perf_counter()
        training.advance(batch)
        seconds.append(time.perf_counter() - began)
        tokens = batch.num_tokens
    per_step = sorted(seconds[1:])[1]  # the median of three, after one to warm up
    training.model.load_state_dict(kept)  # slices into slices, where there are any
    training.step, before = 0, time.monotonic()
    if job.watch.validations:
        training.measure()
    return replace(
        forecast, step_seconds=per_step, tokens_per_second=tokens / per_step,
        validation_seconds=time.monotonic() - before,
    )  # fmt: skip


def _fitted(training: Training, job: Job, settings: Settings, forecast: Forecast) -> Settings:
    """As many steps as the minutes have room for, and no more validations than leave most of them to training."""
    minutes, watch = job.length.minutes or 0, settings.watch
    affordable = int(VALIDATION_SHARE * 60 * minutes / max(1e-9, forecast.validation_seconds))
    if watch.validations > max(1, affordable):
        watch = watch.model_copy(update={"validations": max(1, affordable)})
        training.run.log(
            f"a validation takes {forecast.validation_seconds:.0f} s: {watch.validations} instead of "
            f"{settings.watch.validations} in {minutes:g} minutes"
        )
    spent = time.monotonic() - (job.started or time.monotonic())
    left = 60 * minutes - spent - watch.validations * forecast.validation_seconds
    most = max(1, int(job.max_epochs * job.source.steps_per_epoch)) if job.max_epochs < float("inf") else 2**31
    num_steps = min(max(1, int(BUDGET_SHARE * left / forecast.step_seconds)), most)
    return replace(settings, num_steps=num_steps, watch=watch)


def _of_all(training: Training, forecast: Forecast) -> Forecast:
    """The seconds of the whole training, where a step was timed, now or in a rehearsal."""
    path = training.run.scratch / "forecast.json"
    if not forecast.step_seconds:
        return Forecast.load(path) or forecast
    settings = training.settings
    seconds = settings.num_steps * forecast.step_seconds + settings.watch.validations * forecast.validation_seconds
    forecast = replace(forecast, seconds=seconds)
    if training.world.is_first:
        forecast.save(path)
    return forecast


def save(training: Training, folder: Any, run: Run) -> None:
    """Write the model with the tokenizer's files of `folder` as the run's output."""
    from mojiang.model.load import save_model

    save_model(training.model, folder, run.out)

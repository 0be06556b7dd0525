"""The training loop: the only one, for every recipe that changes weights by gradient.

A step is a global batch of rows. Its loss is a sum over all that is trained on, divided by its number, whatever the
micro-batches and ranks. Everything a step depends on is a function of (seed, step), so that a run continued from a
checkpoint is the run that was never interrupted, bit for bit on a CPU.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mojiang.core.errors import RunFailed
from mojiang.core.run import Run
from mojiang.model._layers import set_dropout_keys
from mojiang.model.network import Network
from mojiang.train._average import Average
from mojiang.train._batches import Batch, Source
from mojiang.train._checkpoint import Checkpointer
from mojiang.train._compile import compile_model
from mojiang.train._memory import checkpoint_activations, without_history
from mojiang.train._objective import Objective
from mojiang.train._optim import build_optimizers
from mojiang.train._parallel import World
from mojiang.train._precision import LossScale, dtype_of, set_precision
from mojiang.train._profile import profiled
from mojiang.train._progress import Step, Voice
from mojiang.train._schedule import Plateau, factor
from mojiang.train._sentinel import Sentinel
from mojiang.train._settings import Settings

CHECKPOINT_SECONDS = 5.0
CHECKPOINT_SHARE = 0.02
"""A checkpoint every few seconds, and seldom enough that writing them takes at most this share of the time."""


@dataclass(frozen=True)
class Result:
    """How training went."""

    steps: int
    tokens: int
    loss: float
    """Of the last step."""
    seconds: float
    validation: dict[str, float]
    """Of the weights that were kept; empty without a validation split."""
    best_step: int
    compiled: bool
    planned: dict[str, Any] = field(default_factory=dict)
    """What it took beside what was foreseen."""


class Training:
    """A model on its way: optimizers, step count, and the state that a checkpoint holds."""

    def __init__(
        self, model: Network, objective: Objective, settings: Settings, run: Run, world: World | None = None
    ) -> None:
        self.world = world or World()
        # The order of sums, and so the bits, depend on the number of threads.
        torch.set_num_threads(max(1, settings.num_threads // self.world.local_size))
        self.objective, self.settings, self.run = self.world.stage(objective), settings, run
        set_precision(model, settings.precision)
        if settings.checkpointing != "none":
            checkpoint_activations(model, settings.checkpointing)
        self.model = self.world.wrap(model.train(), objective.generates)
        self.compiled = False
        self.begin(settings)

    def begin(self, settings: Settings) -> None:
        """Fresh optimizers at step 0, with the weights as they are."""
        self.settings = settings
        self.optimizers = build_optimizers(self.world.outline(self.model), settings.optim, dtype_of(settings.precision))
        self.average = Average(self.model, settings.optim.average) if settings.optim.average else None
        self.scale = LossScale() if settings.precision == "fp16" else None
        self.plateau = Plateau() if settings.optim.schedule == "plateau" else None
        rank = self.world.rank
        self.sentinel = Sentinel(self.run.scratch / f"rank-{rank}" if rank else self.run.scratch)
        self.checkpoints = Checkpointer(self.run.scratch / "checkpoints", self.world)
        self.step = self.tokens = self.best_step = self.stale = 0
        self.seconds = 0.0
        self.loss = math.nan
        self.validation: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.first: dict[str, float] = {}

    def compile(self, example: Batch) -> None:
        """Compile for micro-batches shaped like `example`."""
        self.compiled = compile_model(self.model, self.objective, example, self.run)

    def advance(self, batch: Any) -> Step:
        """One optimizer step on a global batch."""
        mine = self.world.share(len(batch))
        own = batch if len(mine) == len(batch) else batch.take(mine)
        own = self.objective.prepare(self.model, own, self.step, self.world)
        counts = self.world.total(self.objective.counts(own))
        terms = self._accumulate(own, mine, counts)
        optim = self.settings.optim
        self.world.sum_gradients(self.model)
        unscaled = self.scale.unscale(self.model, self.world) if self.scale else True
        norm = self.world.gradient_norm(self.model, optim.clip or math.inf) if unscaled else math.nan
        rate = self._set_rates()
        if unscaled:
            weights = self.objective.weights
            loss = sum(weights[name] * value for name, value in terms.items())
            self._check(Step(loss, norm, rate, terms))
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average:
                self.average.update(self.model)
            self.loss = loss
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.num_tokens
        return Step(self.loss, norm, rate, terms)

    def _accumulate(self, batch: Any, numbers: Any, counts: dict[str, float]) -> dict[str, float]:
        """Add up the gradient over micro-batches; returns each term's mean over the global batch."""
        weights = self.objective.weights
        sums: dict[str, Tensor] = {}

        def forward(rows: list[int], share: bool) -> Tensor:
            set_dropout_keys(self.model, self._row_keys(numbers, rows, len(batch) // len(numbers)))
            losses = self.objective.losses(self.model, batch.take(rows))
            total: Any = sum(losses[name] * (share * weights[name] / max(1e-12, counts[name])) for name in losses)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + share * value.detach()
            return self.scale.scaled(total) if self.scale else total  # type: ignore[no-any-return]

        self.world.walk(self.model, list(batch.micro(self.settings.micro)), forward)
        values = self.world.total({name: float(value) for name, value in sums.items()})
        return {name: value / max(1e-12, counts[name]) for name, value in values.items()}

    def _row_keys(self, numbers: Any, rows: list[int], each: int) -> Tensor:
        """A key per row, of (seed, step, row of the global batch) only; each row may have become several."""
        first = (self.run.seed * 1_000_003 + self.step) * 65_537 % 2**62
        return torch.tensor([first + numbers[row // each] * each + row % each for row in rows], dtype=torch.int64)

    def _set_rates(self) -> float:
        optim, total = self.settings.optim, self.settings.num_steps
        warmup = min(optim.warmup_steps, max(1, total // 10))
        share = self.plateau.factor if self.plateau else 1.0
        share *= factor(optim.schedule, self.step, total, warmup, optim.decay_share)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * share
        return float(self.optimizers[0].param_groups[0]["lr"])

    def _check(self, step: Step) -> None:
        if not self.settings.watch.sentinel and math.isfinite(step.loss) and math.isfinite(step.norm):
            return
        reason = self.sentinel.look(self.step, step.loss, step.norm, step.rate, self.model)
        if reason is not None:
            raise RunFailed(f"step {self.step}: {reason.what}", hint=reason.hint)

    def validate(self) -> bool:
        """Measure the validation split; returns whether these weights are the best so far."""
        self.validation = self.measure()
        if not self.validation:
            return False
        name, value = next(iter(self.validation.items()))
        if self.plateau:
            self.plateau.see(value if self.objective.better == "lower" else -value)
        before = self.best.get(name, math.inf if self.objective.better == "lower" else -math.inf)
        improved = value < before if self.objective.better == "lower" else value > before
        if improved:
            self.best, self.best_step, self.stale = dict(self.validation), self.step, 0
        else:
            self.stale += 1
        return improved

    def measure(self) -> dict[str, float]:
        """Figures of the validation split; before the first step they are kept as `first`."""
        average = self.average.applied(self.model) if self.average else nullcontext()
        # Compiled, with gradients: the graph of training is used; without them another would have to be compiled.
        with average, torch.set_grad_enabled(self.compiled), without_history(self.model):
            self.model.eval()
            # The first rank's, for all: ranks must not differ on which weights are best, be it by a bit.
            figures: dict[str, float] = self.world.agreed(self.objective.validate(self.model, self.settings.at_once))
            self.world.measured(self.model)
            self.model.train()
        if self.step == 0:
            self.first = figures
        return figures

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "settings": self.settings.to_dict(), "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counters": {name: getattr(self, name) for name in COUNTERS},
            **{name: part.state_dict() for name, part in self._parts().items()},
        }  # fmt: skip

    def _parts(self) -> dict[str, Any]:
        """What else has a state of its own, where it is used."""
        parts = {"average": self.average, "scale": self.scale, "plateau": self.plateau, "sentinel": self.sentinel}
        return {name: part for name, part in parts.items() if part is not None}

    def resume(self) -> bool:
        """Continue from the newest intact checkpoint, if there is one for these settings."""
        state = self.checkpoints.load_newest()
        if state is None or replace(self.settings, num_steps=0) != replace(
            Settings.from_dict(state["settings"]), num_steps=0
        ):
            return False
        if self.settings.compile and not self.compiled:
            raise RunFailed(
                f"the run was compiled up to step {state['counters']['step']} and cannot be now, so going on would not "
                "be exact",
                hint="bring the C++ compiler back (`mojiang doctor`) and give the same command again",
            )
        self.world.load(self.model, state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            self.world.load_optimizer(optimizer, saved)
        for name, part in self._parts().items():
            part.load_state_dict(self.world.cut(state[name], part.state_dict()))
        for name, value in state["counters"].items():
            setattr(self, name, value)
        return True


COUNTERS = ("step", "tokens", "seconds", "loss", "validation", "best", "first", "best_step", "stale")


def fit(training: Training, source: Source) -> Result:
    """Train to the last step: report, validate and checkpoint on the way, stop when asked or when it is enough."""
    run, settings = training.run, training.settings
    watch, total = settings.watch, settings.num_steps
    validate_at = _validation_steps(total, watch.validations)
    voice = Voice(training)
    saved_at, pause = time.monotonic(), CHECKPOINT_SECONDS
    with _frozen_objects(), profiled(training, source) as (source, stepped):
        while training.step < total:
            step = training.advance(source.batch(training.step))
            voice.after(step)
            stepped()
            improved = training.step in validate_at and training.validate()
            if training.step in validate_at:
                run.metrics(training.step, **training.validation)
            now, best = time.monotonic(), improved and watch.restores_best
            due = now - saved_at >= pause and training.world.is_first
            asked = training.world.most(2 if run.stopping else int(due))  # whichever rank was told to stop
            stopping = asked == 2
            if asked or best:
                training.checkpoints.save(training.step, training.state(), best=best)
                if stopping:
                    training.checkpoints.close()
                    run.request_stop()
                    run.check_stop()
                saved_at = time.monotonic()
                cost = max(saved_at - now, training.checkpoints.seconds)  # the writing thread needs a processor too
                pause = max(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE)
            if watch.patience and training.stale >= watch.patience:
                run.log(f"stopped at step {training.step}: {training.stale} validations in a row without a better one")
                break
    t = training
    t.checkpoints.save(t.step, t.state(), best=t.best_step == t.step)  # a kill from here on costs no step
    training.checkpoints.close()
    keep_weights(training)
    figures = training.best if watch.restores_best and training.best else training.validation
    return Result(t.step, t.tokens, t.loss, t.seconds, figures, t.best_step, t.compiled)


def keep_weights(training: Training) -> None:
    """Leave in the model the weights that are to be saved: the best, the average, or the last."""
    best = training.checkpoints.load_best() if training.settings.watch.restores_best else None
    if best is not None:
        training.world.load(training.model, best["model"])
        if training.average:
            average = training.average
            average.load_state_dict(training.world.cut(best["average"], average.state_dict()))
    if training.average:
        training.average.copy_to(training.model)


def _validation_steps(num_steps: int, times: int) -> set[int]:
    """Evenly spaced steps, the last one among them."""
    return {num_steps * n // times for n in range(1, times + 1)} - {0} if times else set()


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Keep Python's cycle collector from walking, step after step, through objects that live as long as the run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

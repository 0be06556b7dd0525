"""The training loop: the only one, for every recipe that changes weights by gradient.

A step is a global batch of rows. Its loss is the sum over all trained tokens divided by their number, whatever the
micro-batches. Everything a step depends on is a function of (seed, step), so that a run continued from a checkpoint is
the run that was never interrupted, bit for bit on a CPU.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from mojiang.core.errors import RunFailed, Unavailable
from mojiang.core.run import Run
from mojiang.model.decoder import Decoder
from mojiang.tokenizer._pack import PackedRows, Rows
from mojiang.train._batches import Source
from mojiang.train._checkpoint import load_checkpoint, save_checkpoint
from mojiang.train._loss import Loss, accumulate, compile_model, flops_per_token, loss_sum, measure_bits
from mojiang.train._optim import build_optimizers
from mojiang.train._schedule import warmup_stable_decay

CHECKPOINT_SECONDS = 5.0
CHECKPOINT_SHARE = 0.02
"""A checkpoint every few seconds, and seldom enough that writing them takes at most this share of the time."""
PROGRESS_SECONDS = 0.5
CURVE_POINTS = 400
"""Points of the loss curve, at steps that depend on nothing but the number of steps."""


@dataclass(frozen=True)
class Settings:
    """What decides the weights, besides model, data and seed; saved before the first step and kept on resume."""

    num_steps: int
    batch_rows: int
    micro_rows: int
    context: int
    lr_matrix: float
    lr_embedding: float
    optimizer: str = "muon"
    weight_decay: float = 0.0
    warmup: int = 20
    decay_share: float = 0.6
    clip: float = 1.0
    precision: str = "fp32"
    compile: bool = False
    num_threads: int = 1
    validations: int = 4
    peak_flops: float = 0.0
    """FLOP/s of the fastest matrix product measured here; 0 leaves MFU out."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations and of products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class Result:
    """How training went."""

    steps: int
    tokens: int
    loss: float
    """Mean nats per trained token over the last steps."""
    seconds: float
    bits_per_byte: float
    """Of the last validation; NaN without a validation split."""
    compiled: bool


class Training:
    """A model on its way: optimizers, step count, and the state that a checkpoint holds."""

    def __init__(self, model: Decoder, settings: Settings, run: Run) -> None:
        torch.set_num_threads(settings.num_threads)  # the order of sums, and so the bits, depend on it
        self.model, self.settings, self.run = model, settings, run
        model.compute_dtype = settings.dtype
        model.train()
        s = settings
        self.optimizers = build_optimizers(model, s.optimizer, s.lr_matrix, s.lr_embedding, s.weight_decay, s.dtype)
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.bits_per_byte = self.recent_loss = math.nan
        self.folder = run.scratch / "checkpoints"
        self.loss: Loss = loss_sum
        self.compiled = False

    def compile(self, example: Rows) -> None:
        """Compile for micro-batches shaped like `example`."""
        loss = compile_model(self.model, example, self.run)
        self.compiled = loss is not None
        self.loss = loss or loss_sum

    def time_steps(self, batch: Callable[[int], Rows], count: int) -> float:
        """Seconds of a step, the median of `count` after one to warm up. The model is trained on; see `restarted`."""
        seconds = []
        for step in range(count + 1):
            started = time.perf_counter()
            self.advance(batch(step))
            seconds.append(time.perf_counter() - started)
        return sorted(seconds[1:])[count // 2]

    def restarted(self, settings: Settings) -> Training:
        """The same (compiled) model with its first weights and fresh optimizers."""
        self.model.init_weights(self.run.seed)
        return self.again(settings)

    def again(self, settings: Settings) -> Training:
        """The same (compiled) model with its weights as they are and fresh optimizers, at step 0."""
        fresh = Training(self.model, settings, self.run)
        fresh.loss, fresh.compiled = self.loss, self.compiled
        return fresh

    def resume(self) -> bool:
        """Continue from the newest intact checkpoint, if there is one for these settings."""
        state = load_checkpoint(self.folder)
        if state is None or state["settings"] != asdict(self.settings):
            return False
        if self.settings.compile and not self.compiled:
            raise Unavailable(
                f"the run was compiled up to step {state['step']} and cannot be now, so going on would not be exact",
                hint="bring the C++ compiler back (`mojiang doctor`) and give the same command again",
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.bits_per_byte, self.recent_loss = state["bits_per_byte"], state["recent_loss"]
        return True

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "settings": asdict(self.settings), "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "step": self.step,
            "tokens": self.tokens, "seconds": self.seconds, "bits_per_byte": self.bits_per_byte,
            "recent_loss": self.recent_loss,
        }  # fmt: skip
        save_checkpoint(self.folder, self.step, state)

    def advance(self, rows: Rows) -> tuple[float, float]:
        """One optimizer step on a global batch; returns its loss and the gradient's norm before clipping."""
        factor = warmup_stable_decay(
            self.step, self.settings.num_steps, self.settings.warmup, self.settings.decay_share
        )
        loss = accumulate(self.model, rows, self.settings.micro_rows, self.loss)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RunFailed(
                f"step {self.step}: the loss is {loss}, the gradient's norm {norm}, at {factor:.3f} times the peak "
                f"learning rates {self.settings.lr_matrix} and {self.settings.lr_embedding}",
                hint="lower the learning rate, or use --precision fp32; the last checkpoint is kept",
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += int(sum(stop - start for _, start, stop in rows.spans_N3.tolist()))
        return loss, norm


def fit(training: Training, source: Source, validation: PackedRows | None = None) -> Result:
    """Train to the last step: report, validate and checkpoint on the way, stop when asked."""
    run, settings = training.run, training.settings
    flops = flops_per_token(training.model, settings.context)
    total = settings.num_steps
    validate_at = _validation_steps(total, settings.validations) if validation is not None else set()
    recent: list[tuple[float, float]] = []
    every = max(1, total // CURVE_POINTS)
    saved_at = shown_at = started = time.monotonic()
    pause = CHECKPOINT_SECONDS
    before, tokens_before = training.seconds, training.tokens
    with _frozen_objects():
        while training.step < total:
            recent.append(training.advance(source.batch(training.step)))
            if training.step in validate_at and validation is not None:
                training.bits_per_byte = measure_bits(training.model, validation, settings.micro_rows, training.loss)
                run.metrics(training.step, bits_per_byte=training.bits_per_byte)
            now = time.monotonic()
            training.seconds = before + now - started
            rate = (training.tokens - tokens_before) / (now - started)
            mfu = {"mfu": rate * flops / settings.peak_flops} if settings.peak_flops else {}
            if training.step % every == 0 or training.step == total:
                training.recent_loss, norm = (sum(column) / len(recent) for column in zip(*recent, strict=True))
                run.metrics(training.step, loss=training.recent_loss, gradient_norm=norm, tokens_per_second=rate, **mfu)
                recent = []
            if now - shown_at >= PROGRESS_SECONDS or training.step == total:
                loss = {} if math.isnan(training.recent_loss) else {"loss": round(training.recent_loss, 3)}
                shown = loss | {name: f"{share:.0%}" for name, share in mfu.items()}
                expected = training.tokens * total / training.step
                run.progress(training.tokens, expected, unit="tokens", step=f"{training.step}/{total}", **shown)
                shown_at = now
            if now - saved_at >= pause or run.stopping:
                training.save()
                run.check_stop()
                saved_at = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, (saved_at - now) / CHECKPOINT_SHARE)
    training.save()  # so that a run killed while it writes its output trains no step again
    return Result(
        total, training.tokens, training.recent_loss, training.seconds, training.bits_per_byte, training.compiled
    )


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

"""Our side of every comparison, as a worker (see `_gate.py`): the session that every training recipe goes through.

Like the peers, it writes no checkpoints here, trains with AdamW at a constant rate where losses are compared step by
step, and takes rows in the order of the file.

Tensor names: B rows · T positions · N spans (row, start, stop) · D hidden size · V vocabulary
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _gate import Facts, Gate, serve

from mojiang.core.run import Circumstance
from mojiang.model.load import load_model
from mojiang.tokenizer._pack import IGNORE, PackedRows, Rows, Sequence, write_shards
from mojiang.train import _checkpoint, _loop, _session
from mojiang.train._adapters import prepare_adapter
from mojiang.train._batches import Shuffled
from mojiang.train._losses import linear_cross_entropy
from mojiang.train._objective import CausalLM
from mojiang.train._settings import AdapterSettings, Compute, Length, Optim, Watch
from mojiang.train.pretrain import Pretrain

PACKAGES = ("torch", "mojiang")


class Enough(Exception):
    """All steps are done; a final checkpoint is not asked for."""


class BenchRun:
    """The part of `mojiang.core.run.Run` that a training session uses; after every step it comes to the gate."""

    stopping = False
    circumstance = Circumstance()
    whole = False
    """Whether training goes on to its end, checkpoints and all."""

    def __init__(self, work: Facts, gate: Gate) -> None:
        self.seed, self.device, self.gate = work.get("seed", 0), work.get("device", "cpu"), gate
        self.scratch = Path(tempfile.mkdtemp(prefix="bench-"))
        if self.device == "cuda":
            gate.synchronise = torch.cuda.synchronize

    def metrics(self, step: int, **values: float) -> None:
        if "loss" in values:
            self.gate.losses.append(values["loss"])
            self.after(step)

    def after(self, step: int) -> None:
        """A step is done."""
        self.gate.at(step)
        if self.gate.stops and step == self.gate.stops[-1] and not self.whole:
            raise Enough

    def progress(self, done: float, total: float, unit: str = "", **shown: Any) -> None:
        """Nobody watches."""

    def log(self, text: str) -> None:
        print(text)

    warn = log

    def check_stop(self) -> None:
        """Nobody stops it."""


def session(run: Any, work: Facts, model: Any, objective: Any, source: Any, optim: Optim | None = None) -> Facts:
    """Train to the last step, from a settled number of steps, without checkpoints but where the run is a whole one."""
    if run.whole:
        _loop.CHECKPOINT_SECONDS, _loop.CHECKPOINT_SHARE = 0.0, 1.0
    else:
        _loop.CHECKPOINT_SECONDS = float("inf")
        _checkpoint.Checkpointer.save = lambda *_, **__: None  # type: ignore[method-assign]
    optim = optim or Optim(
        optimizer="adamw", learning_rate=work["learning_rate"], schedule="constant", warmup_steps=0, beta2=0.95
    )
    job = _session.Job(
        model, objective, source, work["batch_rows"], Length(steps=work["steps"]), optim, compute_of(work),
        Watch(validations=0), context=work["context"], row_cost=work["context"], num_threads=work["threads"],
    )  # fmt: skip
    try:
        _, result = _session.train(run, job)
        return dict(result.planned)
    except Enough:
        return {}


def compute_of(work: Facts) -> Compute:
    """How the work is done, in our words."""
    return Compute(precision=work["precision"], compile="on" if work["compile"] else "off", micro=work.get("micro"))


class FullRows:
    """Rows of tokens in the order of the file, each one stretch of text."""

    def __init__(self, work: Facts) -> None:
        self.rows, self.batch_rows = np.load(work["rows"]).astype(np.int64), work["batch_rows"]

    @property
    def steps_per_epoch(self) -> float:
        return len(self.rows) / self.batch_rows

    def batch(self, step: int) -> Rows:
        rows = self.rows[np.arange(step * self.batch_rows, (step + 1) * self.batch_rows) % len(self.rows)]
        return packed_rows(rows, np.full(len(rows), rows.shape[1] - 1))


def packed_rows(rows: Any, lengths: Any, spans_per_row: int = 1) -> Rows:
    """Rows of T + 1 tokens as a batch; what is beyond a row's length is not trained on."""
    B, T = rows.shape[0], rows.shape[1] - 1
    targets_BT = np.where(np.arange(T) < np.asarray(lengths)[:, None], rows[:, 1:], IGNORE)
    spans = np.zeros((B, spans_per_row, 3), np.int64)
    spans[:, :, 0] = np.arange(B)[:, None]
    spans[:, 0, 2] = lengths
    return Rows(rows[:, :-1], targets_BT, np.tile(np.arange(T), (B, 1)), spans.reshape(-1, 3))


def pretrain(work: Facts, gate: Gate) -> Facts:
    """Full rows; with `lora`, only adapters beside every linear layer are trained."""
    run: Any = BenchRun(work, gate)
    run.whole = work.get("whole", False)
    model = load_model(Path(work["folder"]), device=run.device)
    if "lora" in work:
        settings = AdapterSettings(rank=work["lora"], alpha=2 * work["lora"])
        prepare_adapter(model, settings, compute_of(work), run)
    gate.plan([work["batch_rows"] * work["context"]] * work["steps"])
    gate.at(0)
    return session(run, work, model, CausalLM(), FullRows(work))


def sft(work: Facts, gate: Gate) -> Facts:
    """An epoch of conversations, packed."""
    run: Any = BenchRun(work, gate)
    model = load_model(Path(work["folder"]), device=run.device)
    saved = np.load(work["conversations"])
    stops = np.cumsum(saved["lengths"])
    sides: tuple[list[Sequence], list[Sequence]] = ([], [])
    for start, stop, held_out in zip(stops - saved["lengths"], stops, saved["held_out"], strict=True):
        sides[int(held_out)].append(Sequence(saved["tokens"][start:stop], 0, saved["trained"][start:stop]))
    train, held_out = (
        PackedRows(write_shards(side, run.scratch / f"tokens-{number}", model.config.vocab_size), work["context"])
        for number, side in enumerate(sides)
    )
    train.spans_per_row = held_out.spans_per_row = max(train.spans_per_row, held_out.spans_per_row)
    batch_rows = work["pack_rows"]
    source = Shuffled(train, batch_rows, run.seed)
    steps = max(1, round(source.steps_per_epoch))
    gate.plan([source.batch(step).num_tokens for step in range(steps)])
    gate.at(0)
    session(run, {**work, "steps": steps, "batch_rows": batch_rows}, model, CausalLM(), source)
    figures = CausalLM(held_out, bits=False).validate(model.eval(), batch_rows * work["context"])
    return {"held_out_loss": next(iter(figures.values())), "token_use": train.token_use}


def quality(work: Facts, gate: Gate) -> Facts:
    """Pre-train with the recipe's own settings, and look at bits per byte on the way; the clock stands still then."""
    saved = np.load(work["documents"])
    ends = np.cumsum(saved["lengths"])
    eos = np.array([saved["eos"]])
    sequences = (
        Sequence(np.concatenate([eos, saved["tokens"][start:stop], eos]), int(size))
        for start, stop, size in zip(ends - saved["lengths"], ends, saved["bytes"], strict=True)
    )
    curve: list[tuple[float, float]] = []
    clock = {"started": 0.0, "paused": 0.0}

    class Looking(BenchRun):
        """Measures bits per byte at the steps asked for."""

        def after(self, step: int) -> None:
            if step in work["looks"]:
                gate.synchronise()
                now = time.perf_counter()
                curve.append((now - clock["started"] - clock["paused"], bits_per_byte(work, model, objective, slots)))
                clock["paused"] += time.perf_counter() - now

    run: Any = Looking(work, gate)
    model = load_model(Path(work["folder"]), device=run.device)
    model.init_weights(run.seed)
    objective = CausalLM()
    rows = PackedRows(write_shards(sequences, run.scratch / "tokens", model.config.vocab_size), work["context"])
    slots = rows.spans_per_row
    gate.say(ready=True)
    gate.wait()
    clock["started"] = time.perf_counter()
    optim = Pretrain.model_fields["optim"].default
    session(run, work, model, objective, Shuffled(rows, work["batch_rows"], run.seed), optim)
    return {"curve": curve}


def bits_per_byte(work: Facts, model: Any, objective: CausalLM, slots: int) -> float:
    """Of stretches of held-out documents, each read by itself, in batches shaped like those of training."""
    held_out = np.load(work["held_out"])
    tokens, lengths, size = held_out["tokens"].astype(np.int64), held_out["lengths"], work["batch_rows"]
    model.eval()
    nats = 0.0
    for first in range(0, len(tokens), size):
        rows, long = tokens[first : first + size], lengths[first : first + size]
        missing = size - len(rows)
        batch = packed_rows(np.pad(rows, ((0, missing), (0, 0))), np.pad(long, (0, missing)), slots)
        # With gradients, so that the compiled graph of training is used and no other has to be compiled.
        nats += objective.losses(model, batch)["loss"].item()
    model.train()
    return float(nats / np.log(2) / held_out["bytes"].sum())


def vocabulary(work: Facts, gate: Gate) -> Facts:
    """Our loss over a long vocabulary."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if work["precision"] == "bf16" else torch.float32
    weight_VD = (0.02 * torch.randn(work["vocab"], work["width"])).requires_grad_()
    hidden_ND = torch.randn(work["tokens"], work["width"], requires_grad=True)
    targets_N = torch.randint(0, work["vocab"], (work["tokens"],))
    gate.plan([work["tokens"]] * work["steps"])
    with open("/proc/self/statm", encoding="ascii") as statm:
        before = int(statm.read().split()[1]) * 4096
    for step in range(work["steps"]):
        gate.at(step)
        loss = linear_cross_entropy(hidden_ND.to(dtype), weight_VD, targets_N) / work["tokens"]
        loss.backward()  # type: ignore[no-untyped-call]
        hidden_ND.grad = weight_VD.grad = None
        gate.losses.append(loss.item())
        del loss
    gate.at(work["steps"])
    return {"before_bytes": before}


def peak(work: Facts, gate: Gate) -> Facts:
    """FLOP/s of the fastest bf16 matrix product, measured in every turn: interruptions only ever slow one down."""
    device = work.get("device", "cpu")
    if device == "cuda":
        gate.synchronise = torch.cuda.synchronize
    a, b = (torch.ones(8192 if device == "cuda" else 2048, 8192 if device == "cuda" else 2048, device=device,
                       dtype=torch.bfloat16) for _ in range(2))  # fmt: skip
    gate.plan([0] * work["steps"])
    best = []
    for step in range(work["steps"]):
        gate.at(step)
        for _ in range(5):
            started = time.perf_counter()
            a @ b
            gate.synchronise()
            best.append(2 * len(a) ** 3 / (time.perf_counter() - started))
    gate.at(work["steps"])
    return {"flops": max(best)}


TASKS = {
    "pretrain": pretrain, "sft": sft, "quality": quality, "vocabulary": vocabulary, "peak": peak,
}  # fmt: skip

if __name__ == "__main__":
    serve(TASKS, *PACKAGES)

"""What a training is going to take, said before it begins and compared with what it took.

Memory: what is there throughout is counted, what a micro-batch adds is seen in one pass that keeps count of every
tensor. Time: steps that were timed here.
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mojiang.core.errors import Unavailable
from mojiang.core.files import atomic_write
from mojiang.core.memory import give_freed_memory_back
from mojiang.core.recipe import Metrics
from mojiang.train._loop import Training

STATE_BYTES = {"Muon": 4, "AdamW": 8, "AdamW8bit": 2, "Lamb": 8, "SGD": 4, "RMSprop": 8}
"""Bytes of state an optimizer keeps for each number it trains."""
TRIED_SHARE = 0.5
"""Of the room: a training that two rows say will take less is tried with a whole micro-batch."""


@dataclass(frozen=True)
class Forecast:
    """Bytes, and seconds where they are known."""

    program: int
    """Python, PyTorch, the compiled code and what was read of the data."""
    weights: int
    gradients: int
    optimizer: int
    """Its state, and the average of the weights."""
    activations: int
    """What a micro-batch adds above the rest; 0 where it cannot be tried before."""
    checkpoint: int
    """The copy that is written while training goes on."""
    room: int
    """Memory that there is."""
    step_seconds: float = 0.0
    tokens_per_second: float = 0.0
    validation_seconds: float = 0.0
    """Of one validation."""
    compile_seconds: float = 0.0
    seconds: float = 0.0
    """Of the whole training; 0 when no step was timed."""

    @property
    def memory(self) -> int:
        """Bytes at the peak."""
        parts = (self.program, self.weights, self.gradients, self.optimizer, self.activations, self.checkpoint)
        return sum(parts)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        atomic_write(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Forecast | None:
        """What was foreseen before, if anything was."""
        return cls(**json.loads(path.read_text())) if path.exists() else None


class Foreseen(Exception):
    """A rehearsal has come to where training would begin."""

    def __init__(self, forecast: Forecast, training: Training) -> None:
        super().__init__("a rehearsal does not train")
        self.forecast, self.training = forecast, training


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps count of the tensors that operations make, and of the most bytes that were alive at once.

    Example:
        >>> with Ledger() as ledger:
        ...     kept = torch.zeros(256) + torch.zeros(256)  # three tensors of 1 KiB, of which one is kept
        >>> ledger.peak, ledger.live
        (3072, 1024)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet((args, kwargs), counted=False)  # what was there before
        made = func(*args, **(kwargs or {}))
        self._meet(made, counted=True)
        return made

    def _meet(self, values: Any, counted: bool) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self._known:
                    size = storage.nbytes() if counted else 0
                    self._known.add(storage._cdata)
                    weakref.finalize(storage, self._forget, storage._cdata, size)
                    self.live += size
                    self.peak = max(self.peak, self.live)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def foresee(training: Training, batch: Any) -> Forecast:
    """The memory of training on batches like `batch`; weights stay as they are.

    What a micro-batch adds is worked out from passes over one row and over two.

    Raises:
        Unavailable: it cannot fit; says what takes the memory and what would take less.
    """
    model, device = training.model, training.run.device
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = _bytes([*model.parameters(), *model.buffers()])
    optimizer = sum(map(optimizer_bytes, training.optimizers)) + (_bytes(trained) if training.average else 0)
    copied = device == "cpu" and training.world.is_first
    sharing = training.world.local_size if device == "cpu" else 1
    found = Forecast(
        program=0, weights=weights, gradients=_bytes(trained), optimizer=optimizer, activations=0,
        checkpoint=weights + optimizer if copied else 0, room=room(device) // sharing,
    )  # fmt: skip
    refuse(found, training)
    if _can_be_tried(training):
        batch = training.objective.rehearse(batch)
        rows, alone = _largest_micro(training, batch)
        one, two = (_counted(training, batch, rows[:number]) for number in (1, 2))
        found = _with(found, one + (len(rows) - 1) * (two - one), alone)
    found = replace(found, program=_program(training, weights))
    refuse(found, training)
    return found


def tried(training: Training, batch: Any, forecast: Forecast) -> Forecast:
    """With what one whole micro-batch adds, measured: the pieces that freed memory falls into are counted too."""
    if not _can_be_tried(training) or forecast.memory > TRIED_SHARE * forecast.room:
        return forecast
    batch = training.objective.rehearse(batch)
    rows, alone = _largest_micro(training, batch)
    device = training.run.device
    if not alone:
        _pass(training, batch, rows[:1])  # leaves gradients: the last of several micro-batches comes on top of them
    give_freed_memory_back()
    before = resident_bytes(device)
    forget_peak()
    _pass(training, batch, rows)
    added = peak_memory(device) - before
    training.model.zero_grad(set_to_none=True)
    program = _program(training, forecast.weights)
    return replace(_with(forecast, added, alone), program=program)


def _can_be_tried(training: Training) -> bool:
    """Other ranks would have to take the same pass."""
    return training.world.size == 1


def _largest_micro(training: Training, batch: Any) -> tuple[list[int], bool]:
    """Rows of the largest micro-batch, and whether it is the only one."""
    groups = list(batch.micro(training.settings.micro))
    return list(max(groups, key=lambda group: batch.take(group).num_tokens)), len(groups) == 1


def _with(forecast: Forecast, added: int, alone: bool) -> Forecast:
    """With what a pass adds. The gradients count by themselves: they come on top of it where there were some before."""
    return replace(forecast, activations=max(0, added - forecast.gradients) if alone else added)


def _pass(training: Training, batch: Any, rows: list[int]) -> None:
    """Forward and backward over these rows as one micro-batch."""
    own = batch.take(rows)
    if not training.objective.generates:  # else it was rehearsed: writing text costs minutes
        own = training.objective.prepare(training.model, own, 0, training.world)
    training._accumulate(own, rows, training.objective.counts(own))


def _counted(training: Training, batch: Any, rows: list[int]) -> int:
    """Bytes of tensors at the peak of a pass that begins without gradients."""
    cuda = training.run.device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    forget_peak()
    with nullcontext() if cuda else Ledger() as ledger:
        _pass(training, batch, rows)
    peak = torch.cuda.max_memory_allocated() - before if ledger is None else ledger.peak
    training.model.zero_grad(set_to_none=True)
    return int(peak)


def _program(training: Training, weights: int) -> int:
    """What the process holds besides the model; on a GPU that is not on the device."""
    give_freed_memory_back()
    return max(0, resident_bytes(training.run.device) - weights)


def refuse(forecast: Forecast, training: Training) -> None:
    """Raise when it takes more memory than there is.

    Raises:
        Unavailable: with what is needed, what there is, and what would need less.
    """
    if forecast.memory <= forecast.room:
        return
    parts = ("weights", "gradients", "optimizer", "activations", "checkpoint", "program")
    shown = ", ".join(f"{part} {getattr(forecast, part) / 2**30:.1f}" for part in parts if getattr(forecast, part))
    size = f"{training.model.num_parameters() / 1e6:,.0f} M parameters"
    size += " on this rank" if training.world.stages > 1 else ""
    raise Unavailable(
        f"training {size} takes {forecast.memory / 2**30:.1f} GiB ({shown}), and there are {forecast.room / 2**30:.1f}",
        hint="less at once: --micro, a shorter context, --checkpointing full; less to train: an adapter (--base nf4 in "
        "4 bits), --optimizer adamw8bit; or several GPUs with --parallel fsdp or pipeline",
    )


def room(device: str) -> int:
    """Bytes of memory that there are: of the GPU, or of the machine or container."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    total = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no control groups, or one without a limit
        return total


def forget_peak() -> None:
    """Let the peak of memory begin anew, so that it is that of the training and not of what came before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Bytes held at the peak since `forget_peak`."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def compared(forecast: Forecast, training: Training, seconds: float) -> Metrics:
    """The forecast beside what became of it, as metrics of the artifact."""
    peak = peak_memory(training.run.device)
    found: Metrics = {
        "peak_memory_mb": round(peak / 1e6, 1), "planned_memory_mb": round(forecast.memory / 1e6, 1),
    }  # fmt: skip
    if forecast.seconds:
        found["planned_seconds"] = round(forecast.seconds, 2)
    training.run.log(
        f"memory at the peak: {peak / 2**30:.2f} GiB, planned {forecast.memory / 2**30:.2f}"
        + (f"; time: {seconds:.1f} s, planned {forecast.seconds:.1f}" if forecast.seconds else "")
    )
    return found


def resident_bytes(device: str) -> int:
    """What the process holds; on a GPU that is not on the device, and so 0."""
    return int(psutil.Process().memory_info().rss) if device == "cpu" else 0


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of state it is going to have here: of slices, where parameters are sliced, and of none held elsewhere.

    Example:
        >>> optimizer_bytes(torch.optim.AdamW([torch.zeros(100)]))
        800
    """
    each = STATE_BYTES[type(optimizer).__name__]
    listed = (_local(p) for group in optimizer.param_groups for p in group["params"])
    return sum(each * p.numel() for p in listed if p.untyped_storage().nbytes() >= p.nbytes)


def _local(tensor: Tensor) -> Tensor:
    """A rank's own slice, where it has one."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of their storages, each counted once: tied weights share one."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in map(_local, tensors)}
    return sum(storages.values())

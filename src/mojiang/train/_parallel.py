"""The ranks that train one model together; on a laptop there is one, and this is all there is of it.

torchrun (or Slurm, or Ray) starts a process per rank; each takes every n-th row of a global batch. Losses are sums over
counts of the whole batch, so gradients are *summed* over ranks and nothing else needs to know how many there are.

    ddp      every rank holds the whole model; gradients are summed after the last micro-batch
    fsdp     every rank holds a slice of each weight, its gradient and its optimizer state; a block's weights are
             gathered while it is computed
    tensor   every rank computes a part of each layer on all rows
    pipeline every rank computes some of the layers on all rows, and passes on what comes out

A checkpoint holds whole tensors, in the same format whatever the ranks: saved on 2 it is continued on 1 or 4.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadUsage
from mojiang.core.run import Run
from mojiang.model.network import Network

if TYPE_CHECKING:
    from mojiang.train._objective import Objective

Parallel = Literal["ddp", "fsdp", "tensor", "pipeline"]
Forward = Callable[[list[int], bool], Tensor]
"""(rows of a micro-batch, whether it counts) → the loss to call backward on."""


class World:
    """This process's place among the ranks; here, the only one."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    """Ranks on this machine, which share its cores."""
    stages: int = 1
    """Ranks that a micro-batch goes through, one after another."""

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that writes and speaks."""
        return self.rank == 0

    def share(self, num_rows: int) -> Sequence[int]:
        """The numbers of a global batch's rows that this rank takes: every `size`-th.

        Raises:
            BadUsage: there are fewer rows than ranks.
        """
        if num_rows < self.size:
            raise BadUsage(
                f"a batch of {num_rows} rows cannot be shared by {self.size} ranks",
                hint=f"make the batch at least {self.size} rows, or take fewer ranks",
            )
        return range(self.rank, num_rows, self.size)

    def wrap(self, model: Network, generates: bool = False) -> Network:
        """The model, ready to be trained by all ranks together; `generates` if it also writes text while it is."""
        return model

    def stage(self, objective: Objective) -> Objective:
        """The objective as this rank computes it."""
        return objective

    def outline(self, model: Network) -> Network:
        """The model with every parameter, as optimizers number them; what other ranks hold takes no memory."""
        return model

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it a rank computes without the others; what they would have given is zero."""
        yield

    def total(self, values: dict[str, float]) -> dict[str, float]:
        """The sum over all rows' ranks of each value."""
        return values

    def most(self, value: int) -> int:
        """The largest of all ranks' values."""
        return value

    def rounds(self, micros: Sequence[list[int]]) -> list[tuple[list[int], bool]]:
        """A rank's micro-batches, as many on every rank, for the ranks compute together.

        One that has fewer gets its first again; whether what it gives is to count is said beside each.
        """
        again = self.most(len(micros)) - len(micros)
        return [(rows, True) for rows in micros] + [(micros[0], False)] * again

    def walk(self, model: nn.Module, micros: Sequence[list[int]], forward: Forward) -> None:
        """Go forward and backward over a rank's micro-batches, which adds up their gradient."""
        rounds = self.rounds(micros)
        for at, (rows, counts) in enumerate(rounds, start=1):
            self.synchronise(model, last=at == len(rounds))
            forward(rows, counts).backward()  # type: ignore[no-untyped-call]

    def synchronise(self, model: nn.Module, last: bool) -> None:
        """Before a micro-batch: whether it is the `last`, after whose backward pass gradients are summed."""

    def measured(self, model: nn.Module) -> None:
        """After forward passes without a backward pass, which would have let go of what was gathered."""

    def gather(self, rows: Tensor) -> Tensor:
        """All ranks' rows (B, …) in the order of the global batch; gradients flow to one's own."""
        return rows

    def sum_gradients(self, model: nn.Module) -> None:
        """After the last micro-batch: gradients that are whole on every rank become those of all rows."""

    def gradient_norm(self, model: nn.Module, clip: float) -> float:
        """Length of the whole gradient, which is then cut to `clip`; one that is not finite is left as evidence."""
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if torch.isfinite(norm):
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        return float(norm)

    def whole(self, state: Any) -> Any:
        """A state with whole tensors in the place of slices, on the first rank. All ranks must call it."""
        return state

    def cut(self, state: Any, like: Any) -> Any:
        """A whole state with each tensor sliced as its counterpart in `like` is."""
        return state

    def load(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Put whole weights into a model."""
        model.load_state_dict(state)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Put an optimizer's whole state into it."""
        optimizer.load_state_dict(state)

    def agreed(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        return value

    def release(self, model: Network) -> None:
        """Make an ordinary model of what was wrapped, whole on the first rank; then take leave of the others."""


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sliced tensor, or the tensor."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def loading_device(kind: Parallel, device: str) -> str:
    """Where a model is read or made: not on a device that is to hold a part of it only."""
    return "cpu" if kind == "pipeline" and int(os.environ.get("WORLD_SIZE", 1)) > 1 else device


def join(kind: Parallel, run: Run) -> World:
    """This process's world: what torchrun says in the environment, or alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return World()
    run.announce_ready()  # what the first rank has prepared, the others find and do not make again
    from mojiang.train import _ranks  # takes seconds to import

    if kind == "tensor":
        from mojiang.train._tensor_parallel import Parts

        return Parts(run.device)
    if kind == "pipeline":
        from mojiang.train._pipeline import Pipeline

        return Pipeline(run.device)
    return _ranks.Slices(run.device) if kind == "fsdp" else _ranks.Replicas(run.device)

"""Several processes that train one model: what they tell each other, and how a model is spread over them.

Slices of tensors are PyTorch's `DTensor`s, so most optimizers need not know of them.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from mojiang.core.errors import BadUsage
from mojiang.model.network import Network
from mojiang.train._parallel import World, local

BUCKET = 2**24
"""Numbers that are summed over the ranks at once."""
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: the first may be preparing, writing or measuring."""


class Ranks(World):
    """One of several processes, started by torchrun."""

    def __init__(self, device: str) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.device = torch.device(device, int(os.environ.get("LOCAL_RANK", 0)) if device == "cuda" else 0)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
        if device == "cpu":  # gloo gathers where others exchange; that it does is said at every step otherwise
            logging.getLogger("torch.distributed.tensor._collective_utils").setLevel(logging.ERROR)
        self.mesh = init_device_mesh(device, (self.size,))

    def total(self, values: dict[str, float]) -> dict[str, float]:
        """The sum over all ranks of each value."""
        names = sorted(values)
        summed = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return dict(zip(names, summed.tolist(), strict=True))

    def most(self, value: int) -> int:
        """The largest of all ranks' values."""
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gather(self, rows: Tensor) -> Tensor:
        """All ranks' rows in the order of the global batch: the first of each rank, the second of each, …"""
        counts = [int(count) for count in self._all(torch.tensor(len(rows), device=self.device))]
        padded = rows.detach().new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = self._all(padded)
        parts[self.rank] = torch.cat([rows, padded[len(rows) :]])  # the own rows with their gradient
        return torch.stack(parts, dim=1).flatten(0, 1)[: sum(counts)]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return parts

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Running statistics of batch norms saw other rows on each rank: they become their mean."""
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        statistics = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
        if statistics:
            _sum(statistics)
            torch._foreach_div_(statistics, self.size)

    @torch.no_grad()
    def gradient_norm(self, model: nn.Module, clip: float) -> float:
        """Length of the whole gradient, each number counted once; then it is cut to `clip`."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        squares = torch.zeros(2, dtype=torch.float64, device=self.device)
        for gradient in gradients:
            squares[int(is_sliced(gradient))] += local(gradient).double().square().sum()
        dist.all_reduce(squares[1:])
        return clip_to(gradients, float(squares.sum().sqrt()), clip)

    def whole(self, state: Any) -> Any:
        """A state with whole tensors in the place of slices, in every container; nothing, on the other ranks."""
        if isinstance(state, DTensor):
            full: Tensor = state.full_tensor().detach()
            return full.cpu() if self.is_first else full.new_empty(0)
        if isinstance(state, dict):
            return {key: self.whole(value) for key, value in state.items()}
        if isinstance(state, list | tuple):
            return type(state)(self.whole(value) for value in state)
        return state

    def cut(self, state: Any, like: Any) -> Any:
        """A whole state with each tensor sliced as its counterpart in `like` is."""
        if isinstance(like, DTensor):
            return distribute_tensor(state.to(like.device), like.device_mesh, like.placements)
        if isinstance(state, dict) and isinstance(like, dict):
            return {key: self.cut(value, like.get(key)) for key, value in state.items()}
        if isinstance(state, list | tuple) and isinstance(like, list | tuple) and len(state) == len(like):
            return type(state)(self.cut(value, other) for value, other in zip(state, like, strict=True))
        return state

    def load(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Put whole weights into a model, each cut as its own are."""
        model.load_state_dict(self.cut(state, model.state_dict()))

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Put an optimizer's whole state into it, each tensor cut as its parameter is."""
        optimizer.load_state_dict(state)
        for parameter, held in optimizer.state.items():
            if isinstance(parameter, DTensor):
                optimizer.state[parameter] = {key: _cut_state(value, parameter) for key, value in held.items()}

    def agreed(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def release(self, model: Network) -> None:
        """Gather every weight, and leave the other ranks."""
        made: dict[int, nn.Parameter] = {}  # a weight of several names stays one
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if isinstance(parameter, DTensor):
                    if id(parameter) not in made:
                        made[id(parameter)] = nn.Parameter(parameter.detach().full_tensor(), parameter.requires_grad)
                    module._parameters[name] = made[id(parameter)]
        dist.barrier()
        dist.destroy_process_group()


class Replicas(Ranks):
    """Every rank holds the whole model (Li et al. 2020, but gradients are summed once, after the last micro-batch)."""

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Add up the gradients of all ranks; one that only some have counts as zero on the others."""
        super().sum_gradients(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        holders = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        dist.all_reduce(holders)
        gradients = []
        for parameter, held in zip(parameters, holders.tolist(), strict=True):
            if held and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        _sum(gradients)


class Slices(Ranks):
    """Every rank holds a slice of everything (FSDP2; Zhao et al. 2023)."""

    def wrap(self, model: Network, generates: bool = False) -> Network:
        """Slice the model over the ranks, block by block.

        Raises:
            BadUsage: the model is not called as a whole, so that nothing would gather its weights.
        """
        if generates or type(model).forward is nn.Module.forward:
            raise BadUsage(
                "--parallel fsdp holds a slice of each weight, and this training "
                + ("writes text with all of them" if generates else "calls parts of its model by themselves"),
                hint="use --parallel ddp",
            )
        # No in-place operation is done on what a block returns, be it a view.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        # What is outside the blocks is gathered in fp32, as embeddings are added and normalised in it.
        half = None if model.compute_dtype == torch.float32 else model.compute_dtype
        for module, dtype in (*((block, half) for block in model.blocks()), (model, None)):
            policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
            fully_shard(module, mesh=self.mesh, mp_policy=policy)
            module.set_gradient_divide_factor(1.0)  # type: ignore[operator]  # sums, not means
            module.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo cannot scale
        return model

    def synchronise(self, model: nn.Module, last: bool) -> None:
        """Slices of gradients are summed as the last backward pass goes; before it they only add up here."""
        model.set_requires_gradient_sync(last)  # type: ignore[operator]

    def measured(self, model: nn.Module) -> None:
        """Hold slices again."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def release(self, model: Network) -> None:
        """Gather every weight, take FSDP's hooks and class away, and leave the other ranks."""
        self.measured(model)
        sliced = [module for module in model.modules() if isinstance(module, FSDPModule)]
        super().release(model)
        for module in sliced:
            for kind in ("forward_pre", "forward", "state_dict_pre", "load_state_dict_pre"):
                getattr(module, f"_{kind}_hooks").clear()
            module.__class__ = next(own for own in type(module).__bases__ if own is not FSDPModule)


def is_sliced(tensor: Tensor) -> bool:
    """Whether other ranks hold other parts of it."""
    return isinstance(tensor, DTensor) and any(placement.is_shard() for placement in tensor.placements)


def clip_to(gradients: list[Tensor], norm: float, clip: float) -> float:
    """Cut gradients that are `norm` long over all ranks to `clip`, where that is finite; returns `norm`."""
    if gradients and math.isfinite(norm):
        torch._foreach_mul_([local(gradient) for gradient in gradients], min(1.0, clip / (norm + 1e-6)))
    return norm


def _cut_state(value: Any, parameter: DTensor) -> Any:
    """What an optimizer holds of a parameter: like it; or bytes with their scales, in the order of its numbers."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    if isinstance(value, tuple):
        return tuple(distribute_tensor(part, parameter.device_mesh, [Shard(0)]) for part in value)
    return value


def _sum(tensors: list[Tensor]) -> None:
    """Add up tensors over the ranks, in place, many small ones at once."""
    pending: list[Tensor] = []
    for tensor in tensors:
        pending.append(tensor)
        if sum(part.numel() for part in pending) >= BUCKET:
            _sum_bucket(pending)
            pending = []
    if pending:
        _sum_bucket(pending)


def _sum_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))

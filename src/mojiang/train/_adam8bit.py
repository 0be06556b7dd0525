"""AdamW whose two moments take one byte each per number: 2.03 bytes a parameter instead of 8.

Blocks of 256 numbers share a scale, the largest of them. A number is stored as the nearest of 256 values that are dense
near zero and near one on a logarithmic scale ("dynamic tree"), so that outliers cost the others no precision.
Source: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization".

Tensor names: S numbers of a parameter, padded to whole blocks · B blocks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mojiang.core.errors import BadUsage
from mojiang.train._parallel import local

BLOCK = 256
PIECE = 512
"""Blocks quantised at once, in memory that need not be asked for anew: 720,000 numbers take 2.7 ms instead of 10."""
SMALLEST = 4096
"""Parameters with fewer numbers keep their moments in fp32: there is nothing to save, and norms are delicate."""


@cache
def dynamic_values(signed: bool) -> Tensor:
    """The 256 values a byte stands for, ascending, in [-1, 1] or (0, 1].

    Seven decades, each with twice as many evenly spaced values as the one below.
    """
    values = [1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2 ** (decade + (not signed)) + 1, dtype=torch.float64)
        centres = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        values += [*centres, *(-centre for centre in centres)] if signed else centres
    # Zero is a value of the first moment. Were it one of the second, a small gradient in a block with a large one
    # would be divided by it.
    values.append(0.0 if signed else 1e-8)
    return torch.tensor(sorted(values), dtype=torch.float32)


@cache
def _codes(signed: bool) -> Tensor:
    """The byte for every bfloat16: one look-up instead of a search through 256 values, four times as fast."""
    values = dynamic_values(signed)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    middles = (values[1:] + values[:-1]) / 2
    return torch.bucketize(every.nan_to_num(0.0), middles).to(torch.uint8)


def quantize(x: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Bytes (S,) and the blocks' scales (B,) of a tensor."""
    flat_BK = pad(x.flatten(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    codes_S = torch.empty(flat_BK.numel(), dtype=torch.uint8, device=x.device)
    scales_B = torch.empty(len(flat_BK), device=x.device)
    codes = _codes(signed).to(x.device)
    for first in range(0, len(flat_BK), PIECE):
        piece_BK = flat_BK[first : first + PIECE]
        largest_B = torch.amax(piece_BK.abs(), dim=1, out=scales_B[first : first + PIECE])
        shares_BK = (piece_BK / largest_B.clamp(min=1e-38)[:, None]).to(torch.bfloat16)
        places_S = shares_BK.view(torch.int16).flatten().long().add_(2**15)
        torch.index_select(codes, 0, places_S, out=codes_S[first * BLOCK : (first + PIECE) * BLOCK])
    return codes_S, scales_B


def dequantize(codes_S: Tensor, scales_B: Tensor, shape: torch.Size, signed: bool) -> Tensor:
    """The fp32 tensor that bytes and scales stand for."""
    values = dynamic_values(signed).to(codes_S.device).index_select(0, codes_S.to(torch.int32))
    return values.view(-1, BLOCK).mul_(scales_B[:, None]).flatten()[: shape.numel()].view(shape)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with its moments in 8 bits, for large matrices. Embeddings should keep fp32 moments (Dettmers et al.)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            _check_slices(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; one parameter's moments are in fp32 at a time."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(group, parameter, parameter.grad)

    def _update(self, group: dict[str, Any], parameter: nn.Parameter, gradient: Tensor) -> None:
        state = self.state[parameter]
        small = parameter.numel() < SMALLEST
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            for name, signed in (("first", True), ("second", False)):
                zeros = torch.zeros_like(parameter, dtype=torch.float32)
                state[name] = zeros if small else _sliced(quantize(local(zeros), signed), parameter)
        state["step"] += 1
        weight = local(parameter)
        moments = [
            local(state[name])
            if small
            else dequantize(local(state[name][0]), local(state[name][1]), weight.shape, signed)
            for name, signed in (("first", True), ("second", False))
        ]
        torch._fused_adamw_(
            [weight], [local(gradient)], [moments[0]], [moments[1]], [], [state["step"]],
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        if not small:
            for name, moment, signed in (("first", moments[0], True), ("second", moments[1], False)):
                state[name] = _sliced(quantize(moment, signed), parameter)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, to the bit: PyTorch's own would make floats of the bytes."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
        for parameter, number in zip(parameters, numbers, strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = _copied(state_dict["state"][number], parameter.device)


def _sliced(quantized: tuple[Tensor, Tensor], parameter: Any) -> tuple[Tensor, ...]:
    """The bytes and scales of a slice as slices of those of the whole parameter."""
    if not hasattr(parameter, "to_local"):
        return quantized
    placements = parameter.placements
    return tuple(type(parameter.data).from_local(part, parameter.device_mesh, placements) for part in quantized)


def _check_slices(parameter: Any) -> None:
    if not hasattr(parameter, "to_local") or parameter.numel() < SMALLEST:
        return
    rows, ranks = parameter.shape[0], parameter.device_mesh.size()
    by_rows = all(placement.is_shard(0) for placement in parameter.placements)
    if not by_rows or rows % ranks or parameter.numel() // ranks % BLOCK:
        raise BadUsage(
            f"adamw8bit keeps blocks of {BLOCK} numbers, and slices of a weight {tuple(parameter.shape)} over {ranks} "
            "ranks do not hold whole ones",
            hint="use --parallel ddp, or --optimizer adamw",
        )


def _copied(state: Any, device: torch.device) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone().to(device)
    if isinstance(state, dict):
        return {name: _copied(value, device) for name, value in state.items()}
    return tuple(_copied(value, device) for value in state)

"""Products in 8 bits: the matrices inside the blocks, on GPUs that multiply them (compute capability 8.9 and up).

Inputs and weights are rounded to e4m3 (3 bits of mantissa, up to 448), gradients to e5m2 (2 bits, up to 57,344), each
tensor divided by a scale that puts its largest number at the end of that range. Masters, sums, norms, attention,
embeddings and the vocabulary projection stay as with bf16. As the scales are those of whole tensors, rounding depends
on what is in a micro-batch: the loss does, by about the noise of this rounding.
Source: Micikevicius et al. 2022 (FP8 formats); the layout of the three products is that of NVIDIA's kernels, which
`torch._scaled_mm` calls: both operands contiguous along what is summed, and all sizes multiples of 16.

Tensor names: N positions · I inputs · O outputs
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.core.errors import BadUsage
from mojiang.model._layers import Linear
from mojiang.model.lora import LoraLinear
from mojiang.model.network import Network

CAPABILITY = (8, 9)
"""Compute capability (Ada, Hopper) from which GPUs multiply 8-bit floats."""
MULTIPLE = 16
GAIN = 1.1
"""How much faster than bf16 the products must be, by their own, to be worth their rounding."""
HINT = "use --precision bf16, or auto"


def quantized(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in 8 bits, and its scale: x ≈ quantized · scale. What is not finite stays so.

    >>> q, scale = quantized(torch.tensor([0.0, 1.0, -2.0]), torch.float8_e4m3fn)
    >>> q.float().tolist(), (q.float() * scale).tolist()
    ([0.0, 224.0, -448.0], [0.0, 1.0, -2.0])
    """
    limit = torch.finfo(dtype).max
    scale = (x.abs().amax().float() / limit).clamp(min=1e-30)
    return (x.float() / scale).clamp(-limit, limit).to(dtype), scale


def _product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype, fast: bool = False) -> Tensor:
    """a (R, K) · bᵀ (K, C) of quantised a and b (C, K), both contiguous; `fast` sums with fewer bits."""
    (a_RK, a_scale), (b_CK, b_scale) = a, b
    return torch._scaled_mm(a_RK, b_CK.t(), a_scale, b_scale, out_dtype=dtype, use_fast_accum=fast)


class _Float8Product(torch.autograd.Function):
    """x Wᵀ, whose backward products are of the same 8-bit x and W; those are all that is kept."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        x, weight = quantized(x_NI, torch.float8_e4m3fn), quantized(weight_OI, torch.float8_e4m3fn)
        ctx.save_for_backward(*x, *weight)
        ctx.dtypes = x_NI.dtype, weight_OI.dtype
        return _product(x, weight, x_NI.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x_NI, x_scale, weight_OI, weight_scale = ctx.saved_tensors
        gradient_NO, scale = quantized(gradients[0], torch.float8_e5m2)
        weight_IO, x_IN, gradient_ON = (tensor.t().contiguous() for tensor in (weight_OI, x_NI, gradient_NO))
        return (
            _product((gradient_NO, scale), (weight_IO, weight_scale), ctx.dtypes[0]),
            _product((gradient_ON, scale), (x_IN, x_scale), ctx.dtypes[1]),
        )


class Float8Linear(Linear):
    """A projection whose three products are in 8 bits while it is trained; measured, it is an ordinary one."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), in the dtype of `x`."""
        if not self.training:
            return super().forward(x)
        x_NI = x.reshape(-1, x.shape[-1])
        rows = len(x_NI)
        if rows % MULTIPLE:
            x_NI = F.pad(x_NI, (0, 0, 0, -rows % MULTIPLE))
        y_NO: Tensor = _Float8Product.apply(x_NI, self.weight)[:rows]  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y_NO = y_NO + self.bias.to(y_NO.dtype)
        return y_NO.view(*x.shape[:-1], -1)


def matrices(model: Network) -> list[Linear]:
    """The projections inside the blocks that are trained and whose sizes 8-bit products take."""
    try:
        blocks = model.blocks()
    except TypeError:  # a network that is not made of blocks says so with it
        return []
    found = [module for block in blocks for module in block.modules() if type(module) is Linear]
    return [m for m in found if m.weight.requires_grad and not any(size % MULTIPLE for size in m.weight.shape)]


def use_float8(model: Network) -> None:
    """Let the projections inside the blocks multiply in 8 bits; names and weights stay."""
    for module in matrices(model):
        module.__class__ = Float8Linear


def obstacle(device: str, model: Network | None = None, parallel: str = "ddp") -> str | None:
    """Why there can be no products in 8 bits here; None where there can."""
    if device != "cuda":
        return f"they need a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more, and this is {device}"
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        return f"they need a GPU of compute capability 8.9 or more, and this one has {capability[0]}.{capability[1]}"
    if parallel == "tensor":
        return "--parallel tensor cuts the matrices into parts that they do not take"
    if model is not None and any(isinstance(module, LoraLinear) for module in model.modules()):
        return "an adapter's matrices are too narrow to gain by them, and the others are not trained"
    if model is not None and not matrices(model):
        return f"{type(model).__name__} has no projections inside blocks whose sizes are multiples of {MULTIPLE}"
    return None


def check_float8(device: str, model: Network | None = None, parallel: str = "ddp") -> None:
    """Raise `BadUsage` where there can be no products in 8 bits."""
    reason = obstacle(device, model, parallel)
    if reason is not None:
        raise BadUsage(f"--precision fp8 multiplies in 8 bits: {reason}", hint=HINT)


def pays(model: Network, rows: int, seconds: Callable[[int, int, int, bool], float] | None = None) -> bool:
    """Whether the products of all of a model's matrices are faster in 8 bits, forward, backward and rounding together.

    Timed without a compiler, which makes the rounding cheaper: where it pays here it pays compiled.

    Args:
        rows: positions of a micro-batch.
        seconds: (rows, inputs, outputs, in 8 bits) → seconds; left out: measured on the GPU.
    """
    measure = seconds or _seconds
    shapes = Counter((module.in_features, module.out_features) for module in matrices(model))
    rows = -(-rows // MULTIPLE) * MULTIPLE
    plain, short = (
        sum(count * measure(rows, *shape, float8) for shape, count in shapes.items()) for float8 in (False, True)
    )
    return plain > GAIN * short


def _seconds(rows: int, inputs: int, outputs: int, float8: bool, device: str = "cuda", rounds: int = 5) -> float:
    """Of the fastest of some rounds forward and backward through one layer; interruptions only ever slow it down."""
    layer = (Float8Linear if float8 else Linear)(inputs, outputs).to(device).train()
    x_NI = torch.randn(rows, inputs, dtype=torch.bfloat16, device=device, requires_grad=True)
    found = []
    for _ in range(rounds + 2):  # the first ones choose kernels and allocate
        began = time.perf_counter()
        layer(x_NI).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[2:])

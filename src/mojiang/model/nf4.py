"""4-bit NormalFloat weights (Dettmers et al. 2023, QLoRA): frozen projections at an eighth of their fp32 size.

The weight is cut into blocks of 64 numbers; each is divided by the block's largest magnitude and rounded to the nearest
of 16 values, quantiles of a normal distribution. The magnitudes themselves are stored in 8 bits, in groups of 256
(double quantisation). To compute, the weight is expanded to the activations' dtype, used and forgotten; the backward
pass expands it again, so it is never in memory for longer than one layer.

Tensor names: I inputs · O outputs · N numbers of a weight · K = N / 64 blocks
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput

BLOCK = 64
GROUP = 256

NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
"""The 16 values, as in the paper's appendix E and in bitsandbytes."""


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to NF4: two 4-bit numbers per byte (N / 2,), and the blocks' largest magnitudes (K,) in fp32.

    >>> packed, scale = quantize_nf4(torch.linspace(-1, 1, 64))
    >>> packed.shape, scale.tolist(), dequantize_nf4(packed, scale)[[0, -1]].tolist()
    (torch.Size([32]), [1.0], [-1.0, 1.0])

    Raises:
        BadInput: the number of weights is no multiple of 64, or one is not finite.
    """
    if weight.numel() % BLOCK:
        raise BadInput(f"a weight of {weight.numel()} numbers has no whole blocks of {BLOCK}", hint="use bf16 or int8")
    if not torch.isfinite(weight).all():
        raise BadInput("a weight holds NaN or infinity", hint="the model is damaged or diverged; train it again")
    blocks_KB = weight.detach().float().reshape(-1, BLOCK)
    scale_K = blocks_KB.abs().amax(dim=1)
    ratios_KB = blocks_KB / scale_K.clamp(min=1e-30)[:, None]
    middles = (NF4[1:] + NF4[:-1]) / 2
    codes_N = torch.bucketize(ratios_KB, middles.to(weight.device)).to(torch.uint8).flatten()
    return codes_N[0::2] << 4 | codes_N[1::2], scale_K


def dequantize_nf4(packed: Tensor, scale_K: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers (N,) that packed NF4 and its scales stand for."""
    table = _pairs(dtype, packed.device)
    numbers_KB = table[packed.int()].view(-1, BLOCK)
    return (numbers_KB * scale_K.to(dtype)[:, None]).flatten()


def _pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Both numbers of every possible byte (256, 2): one lookup instead of two, and no shifting."""
    values = NF4.to(device=device, dtype=dtype)
    return torch.stack([values.repeat_interleave(16), values.repeat(16)], dim=1)


class _Product(torch.autograd.Function):
    """x Wᵀ that keeps the 4 bits, not the expanded weight, for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear) -> Tensor:
        """Expand, multiply, forget."""
        ctx.layer = layer
        return F.linear(x, layer.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None]:
        """Expand again for the gradient of the input; the weight is frozen and has none."""
        return d_y @ ctx.layer.dequantized(d_y.dtype), None


class Nf4Linear(nn.Module):
    """A frozen projection stored in NF4 with double quantisation: about 4.13 bits a weight."""

    packed: Tensor
    scale_codes: Tensor
    scale_steps: Tensor
    scale_mean: Tensor

    def __init__(self, weight_OI: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        packed, scale_K = quantize_nf4(weight_OI)
        mean = scale_K.mean()
        groups = F.pad(scale_K - mean, (0, -len(scale_K) % GROUP)).view(-1, GROUP)
        steps = groups.abs().amax(dim=1) / 127
        codes = (groups / steps.clamp(min=1e-30)[:, None]).round().clamp(-127, 127).to(torch.int8)
        for name, value in (("packed", packed), ("scale_codes", codes), ("scale_steps", steps), ("scale_mean", mean)):
            self.register_buffer(name, value)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def scales(self) -> Tensor:
        """The blocks' magnitudes (K,) as the 8-bit codes give them."""
        blocks = self.out_features * self.in_features // BLOCK
        return (self.scale_codes.float() * self.scale_steps[:, None]).flatten()[:blocks] + self.scale_mean

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (O, I) this layer computes with."""
        return dequantize_nf4(self.packed, self.scales(), dtype).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) → (…, O), in the dtype of `x`."""
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


def quantize_blocks(model: Any) -> list[str]:
    """Put an `Nf4Linear` in the place of every projection inside the blocks of a `Network`; returns their names."""
    inside = {id(module) for block in model.blocks() for module in block.modules()}
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        layer = owner.get_submodule(leaf)
        setattr(owner, leaf, Nf4Linear(layer.weight, layer.bias))
    return names

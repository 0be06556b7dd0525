"""Layers that every architecture shares: fp32 master weights, cast to the dtype of what they are applied to.

This is the whole precision policy: activations decide, masters stay fp32, no autocast context.

Tensor names: B rows · T positions · D hidden size · N numbers of one row
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput

Activation = Callable[[Tensor], Tensor]

_gelu_tanh = partial(F.gelu, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": _relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}
"""Activations by the name that `config.json` gives them."""


def activation(name: str) -> Activation:
    """The activation of that name.

    >>> activation("relu")(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])

    Raises:
        BadInput: no such activation is known.
    """
    if name not in ACTIVATIONS:
        raise BadInput(f"config.json asks for the activation {name!r}", hint=f"computed are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Linear(nn.Linear):
    """A projection whose fp32 master weight is cast to the input's dtype."""

    def __init__(self, num_inputs: int, num_outputs: int, bias: bool = False) -> None:
        super().__init__(num_inputs, num_outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), in the dtype of `x`."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Embedding(nn.Embedding):
    """A table of vectors. The vector of `padding_idx`, where one is given, is never trained."""

    def __init__(self, num_embeddings: int, size: int, padding_idx: int | None = None) -> None:
        super().__init__(num_embeddings, size, padding_idx=padding_idx)

    def forward(self, ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(…) → (…, size), in `dtype` or that of the table."""
        vectors = super().forward(ids)
        return vectors if dtype is None else vectors.to(dtype)


class LayerNorm(nn.Module):
    """Layer norm (Ba et al. 2016); PyTorch's kernel keeps mean and variance in fp32 for half-precision input."""

    def __init__(self, size: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; shape and dtype stay."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019), computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; shape and dtype stay."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * normed.to(x.dtype)


class Dropout(nn.Module):
    """Dropout whose mask is a function of the row's key, the layer and the position in the row, and of nothing else.

    A row thus loses the same activations in whatever micro-batch, at whatever place and on whatever device it is
    computed, and again when its block is recomputed. Without keys (see `set_dropout_keys`), in evaluation mode or with
    p = 0 it is the identity. Inputs have their rows in the first dimension.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise BadInput(f"the dropout probability is {p}", hint="it must be at least 0 and less than 1")
        self.p = p
        self.keys_2B: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero numbers of `x` (B, …) with probability p and scale the others by 1 / (1 - p)."""
        if self.p == 0.0 or not self.training or self.keys_2B is None:
            return x
        bits = random_bits(self.keys_2B, x[0].numel()).view(x.shape)
        kept = bits >= round(self.p * 2**32) - 2**31
        return torch.where(kept, x * (1.0 / (1.0 - self.p)), torch.zeros((), dtype=x.dtype, device=x.device))

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"p={self.p}"


def random_bits(keys_2B: Tensor, count: int) -> Tensor:
    """Hash of (key, counter): int32 numbers (B, count), uniform over the whole range.

    `keys_2B` are the low and high halves of 64-bit keys, int32. Plain integer arithmetic, so that a compiler fuses it
    into what uses it. The counter is hashed before the key enters and again after, for rows with related keys must not
    get masks that are permutations of each other.
    """
    counters_N = _mix(torch.arange(count, dtype=torch.int32, device=keys_2B.device))
    low_B1, high_B1 = keys_2B[0, :, None], keys_2B[1, :, None]
    return _mix((counters_N ^ high_B1) + low_B1)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit integers that flips each output bit with probability 1/2 (Wellons, hash-prospector)."""
    # PyTorch has no unsigned arithmetic here: int32 products wrap, and `&` removes what `>>` copies of the sign.
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x21F0AAAD
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0xD35A2D97 - 2**32)
    return x ^ ((x >> 15) & 0x1FFFF)


def set_dropout_keys(model: nn.Module, keys_B: Tensor | None) -> None:
    """Give every `Dropout` of `model` the rows of the next forward pass: one int64 key per row; None turns dropout off.

    Each layer mixes its number into the keys here, as tensors: a number in the layer itself would make `torch.compile`
    build one graph per layer instead of one for all.
    """
    for number, layer in enumerate(m for m in model.modules() if isinstance(m, Dropout)):
        if keys_B is None or layer.p == 0.0:
            layer.keys_2B = None
            continue
        low_B = (keys_B & 0xFFFFFFFF).to(torch.int32)
        high_B = (keys_B >> 32).to(torch.int32)
        salt = torch.tensor(number + 1, dtype=torch.int32, device=keys_B.device)
        layer.keys_2B = torch.stack([_mix(low_B ^ _mix(salt)), _mix(high_B + _mix(~salt))])

"""Weight-only int8: each row of a projection's weight as signed bytes and one scale.

Array suffixes:  N rows of activations · I inputs · O outputs

On disk and in the manifest a weight is a quarter of fp32. To compute, the bytes are expanded once to the activations'
dtype, in which they are exact, and the scale is applied to the much smaller output. PyTorch's own int8 kernel
(`_weight_int8pack_mm`, 2 to 3 times faster for a few bf16 rows) is not used: in 2.13 it reads past the end of the
weight when the number of rows is 1 more than a multiple of 4, and a process that runs it crashes now and then.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput


def quantize_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Round a float weight to int8 with one symmetric scale per output row: (int8 (O, I), fp32 scale (O, 1)).

    The scale is rounded up to a bfloat16 number (at most 0.8 % coarser), so that a bf16 and an fp32 reader compute
    with the very same weights. Round-to-nearest; the largest weight of a row maps to at most 127.

    >>> q, scale = quantize_weight(torch.tensor([[1.0, -0.5, 0.0]]))
    >>> q.tolist(), (q * scale).round(decimals=2).tolist()
    ([[126, -63, 0]], [[1.0, -0.5, 0.0]])
    """
    if not torch.isfinite(weight_OI).all():
        raise BadInput("a weight holds NaN or infinity", hint="the model is damaged or diverged; train it again")
    weight_OI = weight_OI.float()
    exact_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp(min=1e-20) / 127
    scale_O1 = exact_O1.bfloat16()
    up_O1 = (scale_O1.view(torch.int16) + 1).view(torch.bfloat16)  # the next bfloat16 above a positive one
    scale_O1 = torch.where(scale_O1.float() < exact_O1, up_O1, scale_O1).float()
    return (weight_OI / scale_O1).round().clamp(-127, 127).to(torch.int8), scale_O1


def dequantize_weight(weight_OI: Tensor, scale_O1: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The float weight that int8 bytes and their scales stand for."""
    return (weight_OI.float() * scale_O1.float()).to(dtype)


class Int8Linear(nn.Module):
    """A projection stored as int8: `weight` and `weight_scale`, the names that compressed-tensors gives them.

    A bias stays fp32. Results differ from `Linear` on the dequantised weight only by floating-point rounding.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, num_inputs: int, num_outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = num_inputs, num_outputs
        self.register_buffer("weight", torch.zeros(num_outputs, num_inputs, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(num_outputs, 1))
        self.register_buffer("bias", torch.zeros(num_outputs) if bias else None)
        self._expanded: Tensor | None = None

    @classmethod
    def from_float(cls, weight_OI: Tensor, bias_O: Tensor | None = None) -> Int8Linear:
        """Quantise a float weight (O, I), and keep the bias."""
        layer = cls(weight_OI.shape[1], weight_OI.shape[0], bias_O is not None)
        layer.weight, layer.weight_scale = quantize_weight(weight_OI.detach())
        layer.bias = None if bias_O is None else bias_O.detach().float()
        return layer

    def dequantized(self) -> Tensor:
        """The fp32 weight (O, I) this layer computes with."""
        return dequantize_weight(self.weight, self.weight_scale)

    def forward(self, x_NI: Tensor) -> Tensor:
        """Project (…, I) to (…, O) in the dtype of the activations."""
        y_NO = F.linear(x_NI, self._expand(x_NI)) * self.weight_scale[:, 0].to(x_NI.dtype)
        return y_NO if self.bias is None else y_NO + self.bias.to(x_NI.dtype)

    def _expand(self, x_NI: Tensor) -> Tensor:
        kept = self._expanded
        if kept is None or kept.dtype != x_NI.dtype or kept.device != x_NI.device:
            # The engine calls this in inference mode, and a tensor made there could not be used outside of it.
            with torch.inference_mode(False):
                kept = self._expanded = self.weight.to(x_NI.dtype)
        return kept

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        # model.to(bfloat16) must not round the scales away from fp32, nor leave a stale expanded weight behind.
        self._expanded = None
        device = fn(torch.empty(0, device=self.weight.device)).device
        self.weight, self.weight_scale = self.weight.to(device), self.weight_scale.to(device)
        self.bias = None if self.bias is None else self.bias.to(device)
        return self

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        self._expanded = None
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype=int8"


def replace_linears(
    model: nn.Module, skip: tuple[str, ...] = ("lm_head",), make: Callable[[nn.Linear], nn.Module] | None = None
) -> list[str]:
    """Put an `Int8Linear` in place of every linear layer of `model`; returns their names.

    Layers named in `skip` stay as they are. Without `make`, weights are quantised; pass
    `make=lambda old: Int8Linear(old.in_features, old.out_features)` to get empty layers for a state dict to fill.
    """
    build = make or (lambda old: Int8Linear.from_float(old.weight, old.bias))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in skip]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, leaf, build(owner.get_submodule(leaf)))  # type: ignore[arg-type]
    return names

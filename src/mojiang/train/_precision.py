"""Dtypes of activations, and the loss scale that fp16's narrow range needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mojiang.model.network import Network
from mojiang.train._parallel import World, local

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""With fp8 the products inside the blocks are in 8 bits, and everything else is as with bf16."""


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of activations and products.

    >>> dtype_of("bf16")
    torch.bfloat16
    """
    return DTYPES[precision]


def set_precision(model: Network, precision: str) -> None:
    """Let a model compute in it; its masters stay as they are."""
    model.compute_dtype = dtype_of(precision)
    if precision == "fp8":
        from mojiang.train._float8 import use_float8

        use_float8(model)


@dataclass
class LossScale:
    """Multiplies the loss so that fp16 gradients do not vanish; halves when they overflow, doubles when all is well.

    Source: Micikevicius et al. 2018 (mixed precision training). Part of the checkpoint, so resuming is exact.
    """

    scale: float = 2.0**16
    good_steps: int = 0
    double_after: int = 2000

    def scaled(self, loss: Any) -> Any:
        """The loss to call backward on."""
        return loss * self.scale

    @torch.no_grad()
    def unscale(self, model: nn.Module, world: World) -> bool:
        """Divide the gradients by the scale; False when one overflowed on any rank: the step must be left out."""
        gradients: list[Tensor] = [local(p.grad) for p in model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, self.scale)
        own = all(bool(torch.isfinite(total)) for total in torch._foreach_norm(gradients))
        finite = not world.most(int(not own))
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps >= self.double_after:
            self.scale, self.good_steps = self.scale * 2, 0
        return finite

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.scale, self.good_steps = state["scale"], state["good_steps"]

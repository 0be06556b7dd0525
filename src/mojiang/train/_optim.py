"""Optimizers: Muon for the matrices inside the blocks, AdamW for everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by its nearest semi-orthogonal matrix, found with a few
Newton-Schulz iterations. Matrices of one shape are stacked and iterated together, in bf16 where the hardware
multiplies bf16 fast, so that a step costs a handful of large matrix products instead of dozens of small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic of Jordan et al.: steep at zero, so five iterations are enough."""


def orthogonalize(matrices_NRC: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearest semi-orthogonal matrix of each of N matrices (R rows, C columns), singular values in about [0.7, 1.2].

    Source: Newton-Schulz iteration as in Muon (Jordan et al. 2024).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices_NRC.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    oriented: Tensor = x.mT if tall else x
    return oriented


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, with decoupled weight decay.

    The update is scaled by sqrt(max(1, rows / columns)), torch.optim.Muon's "original" adjustment, so that one learning
    rate fits every shape. Only for matrices; embeddings, heads and norms belong to AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self._step_shape(group, shape, parameters)

    def _step_shape(self, group: dict[str, Any], shape: torch.Size, parameters: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
        update = orthogonalize(torch.stack(nesterov), dtype=self.dtype)
        scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        weights: list[Tensor] = list(parameters)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(update.to(weights[0].dtype).unbind(0)), alpha=-scale)


def build_optimizers(
    model: nn.Module,
    kind: str,
    lr_matrix: float,
    lr_embedding: float,
    weight_decay: float,
    dtype: torch.dtype,
) -> list[torch.optim.Optimizer]:
    """Muon + AdamW (`kind="muon"`), or AdamW alone (`kind="adamw"`, then `lr_matrix` is its rate for the matrices).

    Weight decay applies to the matrices of the blocks only. Every group keeps its peak rate under `peak_lr`, which the
    schedule multiplies.
    """
    matrices: list[nn.Parameter] = []
    embeddings: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif "embed_tokens" in name or "lm_head" in name:
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": embeddings, "lr": lr_embedding, "weight_decay": 0.0},
        {"params": vectors, "lr": lr_embedding, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if kind == "muon":
        optimizers.append(Muon(matrices, lr=lr_matrix, weight_decay=weight_decay, dtype=dtype))
    else:
        groups.append({"params": matrices, "lr": lr_matrix, "weight_decay": weight_decay})
    optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers

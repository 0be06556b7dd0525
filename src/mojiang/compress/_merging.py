"""What merging does to one tensor: pure functions of the models' tensors, their weights and the base's tensor.

Everything is per tensor, as in mergekit: TIES keeps a share of each tensor's numbers, slerp's angle is each tensor's.

Tensor names: M models · … the shape of the tensor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Tensor]
STRAIGHT = 0.9995
"""Cosine above which an arc is a straight line: its sine would be divided by."""


def linear(tensors: Sequence[Tensor], weights: Sequence[float], base: Tensor | None = None, **_: float) -> Tensor:
    """Weighted mean.

    >>> linear([torch.tensor([0.0]), torch.tensor([4.0])], [1, 3])
    tensor([3.])
    """
    return _sum(tensors, weights) / sum(weights)


def slerp(
    tensors: Sequence[Tensor], weights: Sequence[float], base: Tensor | None = None, *, t: float, **_: float
) -> Tensor:
    """Between two tensors along the arc: sin((1-t)θ)/sin θ · a + sin(tθ)/sin θ · b; almost parallel ones straight."""
    a, b = (tensor.float() for tensor in tensors)
    lengths = a.norm() * b.norm()
    cosine = (a * b).sum() / lengths if lengths > 0 else torch.ones(())
    if cosine.abs() > STRAIGHT:
        return (1 - t) * a + t * b
    angle = torch.arccos(cosine)
    return torch.sin((1 - t) * angle) / torch.sin(angle) * a + torch.sin(t * angle) / torch.sin(angle) * b


def task_arithmetic(
    tensors: Sequence[Tensor], weights: Sequence[float], base: Tensor, *, scale: float = 1.0, **_: float
) -> Tensor:
    """The base plus the weighted sum of what each model changed.

    >>> task_arithmetic([torch.tensor([2.0]), torch.tensor([5.0])], [1, 0.5], torch.tensor([1.0]))
    tensor([4.])
    """
    return base + scale * _sum([tensor - base for tensor in tensors], weights)


def ties(
    tensors: Sequence[Tensor], weights: Sequence[float], base: Tensor, *, density: float, scale: float = 1.0, **_: float
) -> Tensor:
    """Trim, elect sign, merge (Yadav et al. 2023): of each change the largest numbers; of those, the ones whose sign
    has the larger sum over all models, averaged by weight.
    """
    weights_M = torch.tensor(list(weights)).view(-1, *[1] * base.dim())
    changes_M = torch.stack([trim(tensor - base, density) for tensor in tensors]) * weights_M
    elected = torch.where(changes_M.sum(0) >= 0, 1.0, -1.0)
    agree_M = changes_M.sign() == elected
    shares = (weights_M * agree_M).sum(0)
    shares = torch.where(shares == 0, 1.0, shares)
    return base + scale * (changes_M * agree_M).sum(0) / shares


def trim(change: Tensor, density: float) -> Tensor:
    """The largest numbers of a change, that share of them (at least one); 0 for the others.

    >>> trim(torch.tensor([1.0, -3.0, 2.0, 0.5]), 0.5)
    tensor([ 0., -3.,  2.,  0.])
    """
    flat = change.flatten()
    largest = flat.abs().topk(max(1, int(density * flat.numel()))).indices
    return torch.zeros_like(flat).index_copy(0, largest, flat[largest]).view_as(change)


def _sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * tensor for tensor, weight in zip(tensors, weights, strict=True)]).sum(0)


METHODS: dict[str, Function] = {"linear": linear, "slerp": slerp, "task_arithmetic": task_arithmetic, "ties": ties}

"""An exponential moving average of a model's weights: often better than the last ones, and steadier to validate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mojiang.train._parallel import local


class Average:
    """Weights averaged over training with a decay per step that warms up: min(decay, (1 + n) / (10 + n)) at step n.

    Without the warm-up the random first weights would weigh decayⁿ for a long time. Averaged are trained parameters and
    floating-point buffers (batch-norm statistics); all of them are fp32 masters.
    Source: Polyak & Juditsky 1992; the warm-up is TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights after an optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights, others = ([local(t) for t in held.values()] for held in (self.weights, _averaged(model)))
        torch._foreach_lerp_(weights, others, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights, and its own again afterwards; training must not go on inside."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights with the average."""
        for name, tensor in _averaged(model).items():
            tensor.copy_(self.weights[name])

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        """Exchange contents, tensor by tensor: compiled graphs hold on to where a model's weights lie."""
        for name, tensor in _averaged(model).items():
            kept = tensor.clone()
            tensor.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "weights": self.weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.steps = state["steps"]
        for name, tensor in state["weights"].items():
            self.weights[name].copy_(tensor)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, tied ones once, and floating-point buffers."""
    found: dict[str, Tensor] = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    return found | {name: b for name, b in model.named_buffers() if b.is_floating_point()}

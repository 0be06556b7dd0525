"""From logits to a token.

Randomness is a pure function of (seed, position): a counter-based generator (SplitMix64, Steele et al. 2014) gives
one uniform number per token, and the token is where that number falls in the cumulative distribution. A request
therefore draws the same tokens alone, in any batch, after a pause, or on another day.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mojiang.core.errors import BadInput

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. The default is greedy.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep everything (nucleus sampling: Holtzman et al. 2020).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise BadInput(f"temperature is {self.temperature}", hint="use a number from 0 (greedy) to 100")
        if self.top_k < 0:
            raise BadInput(f"top_k is {self.top_k}", hint="use 0 (keep all) or a positive number")
        if not 0.0 < self.top_p <= 1.0:
            raise BadInput(f"top_p is {self.top_p}", hint="use a number above 0 and up to 1 (keep all)")


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments.

    >>> uniform(1, 5) == uniform(1, 5), uniform(1, 5) == uniform(1, 6)
    (True, False)
    """
    state = _mix(seed & _MASK)
    return (_mix((state + (position + 1) * 0x9E3779B97F4A7C15) & _MASK) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def sample(logits_V: Tensor, sampling: Sampling, position: int) -> int:
    """Choose a token from one row of fp32 logits.

    Rows are taken one by one on purpose: every reduction then has the shape (V,), whatever the batch is.
    """
    if sampling.temperature == 0.0:
        return int(logits_V.argmax())
    scaled_V = logits_V.double() / sampling.temperature
    if not sampling.top_k and sampling.top_p >= 1.0:
        return _draw(torch.softmax(scaled_V, -1), sampling.seed, position)
    kept = min(sampling.top_k or scaled_V.numel(), scaled_V.numel())
    # Stable, so that equal logits keep the order of their ids.
    scaled_V, order_V = torch.sort(scaled_V, descending=True, stable=True)
    probabilities_V = torch.softmax(scaled_V[:kept], -1)
    if sampling.top_p < 1.0:
        before_V = probabilities_V.cumsum(-1) - probabilities_V
        probabilities_V = probabilities_V[before_V < sampling.top_p]  # the first always stays: nothing is before it
    return int(order_V[_draw(probabilities_V, sampling.seed, position)])


def _draw(weights_V: Tensor, seed: int, position: int) -> int:
    cumulative_V = weights_V.cumsum(-1)
    target = uniform(seed, position) * float(cumulative_V[-1])
    chosen = int(torch.searchsorted(cumulative_V, target, right=True))
    # The product may round up to the total; then the last token that has weight is meant.
    return chosen if chosen < weights_V.numel() else int(weights_V.nonzero()[-1])


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of a chosen token under the model (before temperature), and of the best alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprob(logits_V: Tensor, token: int, alternatives: int) -> TokenLogprob:
    """Log-probability of `token` and of the `alternatives` likeliest tokens."""
    scores_V = torch.log_softmax(logits_V, -1)
    best = torch.topk(scores_V, min(alternatives, scores_V.numel())) if alternatives else None
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best is not None else ()
    return TokenLogprob(token, float(scores_V[token]), top)

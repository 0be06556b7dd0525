"""GloVe: counts of words that occur together, and vectors whose products are the counts' logarithms.

Source: Pennington, Socher & Manning 2014.

Tensor names carry their shape: P entries of a batch · V words · D size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mojiang.text._corpus import Corpus, pairs

Entries = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

_PENDING: Final = 5_000_000  # entries in memory before they are summed up


def co_occurrences(corpus: Corpus, window: int, each: Callable[[], None]) -> Entries:
    """Sorted keys `word * V + other` of what occurs within the window, and sums of 1 / distance.

    Memory is that of the different pairs, and of what has not been summed up yet.
    """
    width = len(corpus.words)
    keys, values = np.zeros(0, np.int64), np.zeros(0)
    pending: list[Entries] = []
    for part in corpus.chunks(100_000):
        centre, other, apart = pairs(part, window, window)
        pending.append((part[centre].astype(np.int64) * width + part[other], 1.0 / apart))
        if sum(len(some) for some, _ in pending) > _PENDING:
            keys, values = _summed([(keys, values), *pending])
            pending = []
        each()
    return _summed([(keys, values), *pending])


def _summed(parts: list[Entries]) -> Entries:
    keys, place = np.unique(np.concatenate([key for key, _ in parts]), return_inverse=True)
    sums = np.bincount(place, np.concatenate([value for _, value in parts]), minlength=len(keys))
    return keys, sums.astype(np.float64)


class Tables:
    """Vectors and biases of words as centres and as neighbours, in one table each, with AdaGrad's squares."""

    def __init__(self, words: int, size: int, generator: torch.Generator) -> None:
        self.words = words
        # The bias is the last column, so one step moves both.
        self.table_RD = (torch.rand(2 * words, size + 1, generator=generator) - 0.5) / size
        self.squares_RD = torch.ones_like(self.table_RD)

    def loss(self, one_P: Tensor, other_P: Tensor, log_P: Tensor, weight_P: Tensor) -> Tensor:
        """The weighted squared error, as one differentiable sum."""
        error_P = self._errors(self.table_RD[one_P], self.table_RD[other_P + self.words], log_P)
        return (0.5 * weight_P * error_P**2).sum()

    @staticmethod
    def _errors(one_PD: Tensor, other_PD: Tensor, log_P: Tensor) -> Tensor:
        return (one_PD[:, :-1] * other_PD[:, :-1]).sum(1) + one_PD[:, -1] + other_PD[:, -1] - log_P

    def slopes(self, one_P: Tensor, other_P: Tensor, log_P: Tensor, weight_P: Tensor) -> tuple[Tensor, Tensor, float]:
        """The loss's slope at the centre's and the neighbour's row of each entry, and the loss."""
        one_PD, other_PD = self.table_RD[one_P], self.table_RD[other_P + self.words]
        error_P = self._errors(one_PD, other_PD, log_P)
        push_P1 = (weight_P * error_P)[:, None]
        to_one_PD, to_other_PD = push_P1 * other_PD, push_P1 * one_PD
        to_one_PD[:, -1] = to_other_PD[:, -1] = push_P1[:, 0]
        return to_one_PD, to_other_PD, float((0.5 * weight_P * error_P**2).sum())

    def step(self, one_P: Tensor, other_P: Tensor, log_P: Tensor, weight_P: Tensor, rate: float) -> float:
        """One step of AdaGrad; the loss before it."""
        to_one_PD, to_other_PD, loss = self.slopes(one_P, other_P, log_P, weight_P)
        rows = torch.cat([one_P, other_P + self.words])
        slopes_PD = torch.cat([to_one_PD, to_other_PD])
        # Each entry is stepped by the squares before the batch, as if its rows were in no other entry.
        moves_PD = slopes_PD / self.squares_RD[rows].sqrt()
        self.table_RD.index_add_(0, rows, moves_PD, alpha=-rate)
        self.squares_RD.index_add_(0, rows, slopes_PD**2)
        return loss

    def vectors(self) -> Any:
        """What is kept of a word: its vector as a centre plus that as a neighbour."""
        return (self.table_RD[: self.words, :-1] + self.table_RD[self.words :, :-1]).numpy()

"""Words as the bytes they are spelled with, and a vector for each word made of them by convolutions.

UTF-8 is one alphabet for every script: no character is unknown, and none has to be counted first.

Tensor names carry their shape:
    U distinct words · L places of the longest · C channels of a byte · F filters · D size of a word's vector
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mojiang.model._layers import Embedding, Linear

PAD, WORD_BEGIN, WORD_END, SENTENCE_BEGIN, SENTENCE_END = 0, 257, 258, 259, 260
"""What is no byte; a byte has its value + 1."""
ALPHABET = 261
LONGEST = 50
"""Places of a word, its two ends among them; what is beyond is not read (the paper's number)."""
Filters = Sequence[tuple[int, int]]
"""(Width in bytes, how many) of the convolutions."""


def spell(words: Iterable[str]) -> NDArray[np.int16]:
    """The bytes of each word between its two ends, filled up with `PAD` to the longest, (U, L).

    >>> spell(["a", "中"]).tolist()
    [[257, 98, 258, 0, 0], [257, 229, 185, 174, 258]]
    """
    spelled = [[WORD_BEGIN, *(b + 1 for b in word.encode("utf-8")[: LONGEST - 2]), WORD_END] for word in words]
    return _rectangle(spelled)


def sentence_ends() -> NDArray[np.int16]:
    """What stands before the first and after the last word of a sentence, spelled, (2, 3)."""
    return _rectangle([[WORD_BEGIN, end, WORD_END] for end in (SENTENCE_BEGIN, SENTENCE_END)])


def _rectangle(rows: list[list[int]]) -> NDArray[np.int16]:
    made = np.full((len(rows), max(map(len, rows), default=0)), PAD, np.int16)
    for at, row in enumerate(rows):
        made[at, : len(row)] = row
    return made


class Highway(nn.Module):
    """Part of the input carried on, part transformed (Srivastava et al. 2015)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.transform, self.carry = Linear(size, size, bias=True), Linear(size, size, bias=True)

    def forward(self, x_UF: Tensor) -> Tensor:
        """(U, F) → (U, F)."""
        share_UF = torch.sigmoid(self.carry(x_UF))
        carried_UF: Tensor = share_UF * x_UF + (1 - share_UF) * F.relu(self.transform(x_UF))
        return carried_UF


class SpelledWords(nn.Module):
    """Vectors of words from their bytes (Kim et al. 2016): convolutions, the largest of each filter, highways.

    A word shorter than the widest filter counts as filled up to it. What is beyond changes no result.
    """

    def __init__(self, channels: int, filters: Filters, num_highways: int, size: int) -> None:
        super().__init__()
        self.embedding = Embedding(ALPHABET, channels)
        self.convolutions = nn.ModuleList(nn.Conv1d(channels, count, width) for width, count in filters)
        features = sum(count for _, count in filters)
        self.highways = nn.ModuleList(Highway(features) for _ in range(num_highways))
        self.projection = Linear(features, size, bias=True)
        self.filters, self.widest = tuple(filters), max(width for width, _ in filters)

    def forward(self, spellings_UL: Tensor) -> Tensor:
        """(U, L) → (U, D)."""
        if spellings_UL.shape[1] < self.widest:
            spellings_UL = F.pad(spellings_UL, (0, self.widest - spellings_UL.shape[1]), value=PAD)
        lengths_U1 = (spellings_UL != PAD).sum(1, keepdim=True).clamp(min=self.widest)
        bytes_UCL = self.embedding(spellings_UL).transpose(1, 2)
        largest = []
        for convolution, (width, _) in zip(self.convolutions, self.filters, strict=True):
            found_UFL = convolution(bytes_UCL)
            places_L = torch.arange(found_UFL.shape[2], device=spellings_UL.device)
            beyond_UL = places_L > lengths_U1 - width
            largest.append(found_UFL.masked_fill(beyond_UL[:, None], -torch.inf).amax(2))
        x_UF = F.relu(torch.cat(largest, dim=1))
        for highway in self.highways:
            x_UF = highway(x_UF)
        words_UD: Tensor = self.projection(x_UF)
        return words_UD

"""Exact log-likelihood of whole documents under a decoder whose context is shorter than they are.

Tensor suffixes:  B windows of a batch · T positions of a window · N scored positions · D hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mojiang.core.errors import BadInput
from mojiang.model.network import Network

# Logits are made for this many positions at a time: the vocabulary, not the model, decides the peak memory.
LOGIT_ROWS = 2048


class Window(NamedTuple):
    """Positions [start, stop) of a document are read; predictions made at [first, stop) are scored."""

    document: int
    start: int
    first: int
    stop: int


def windows(num_positions: int, context: int, document: int = 0) -> Iterator[Window]:
    """Cover a document so that every position is scored once and, past the opening, with half a context behind it.

    >>> [(w.start, w.first, w.stop) for w in windows(10, context=4)]
    [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    """
    if context < 2:
        raise BadInput(f"a context of {context} tokens is too short to slide", hint="use a context of 2 or more")
    first, stop = 0, min(context, num_positions)
    while first < num_positions:
        yield Window(document, max(0, stop - context), first, stop)
        first, stop = stop, min(stop + context // 2, num_positions)


def document_nats(
    model: Network,
    documents: Sequence[Sequence[int]],
    *,
    start: int,
    end: int,
    context: int,
    batch_tokens: int = 8192,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Negative log-likelihood in nats of each document, read alone from the token `start`, with the `end` after it.

    The end is paid for as well, so the sum is the length of a code that can be decoded. `on_progress`
    gets positions read so far and in all.
    """
    device = model.device
    sequences = [torch.tensor([start, *document, end]) for document in documents]
    pending = [w for i, s in enumerate(sequences) for w in windows(len(s) - 1, context, i)]
    pending.sort(key=lambda w: w.stop - w.start, reverse=True)  # like lengths together: little padding
    total, done, nats = sum(w.stop - w.start for w in pending), 0, torch.zeros(len(sequences), dtype=torch.float64)
    while pending:
        rows = max(1, batch_tokens // (pending[0].stop - pending[0].start))
        batch, pending = pending[:rows], pending[rows:]
        for window, value in zip(batch, _window_nats(model, sequences, batch, device), strict=True):
            nats[window.document] += value
        done += sum(w.stop - w.start for w in batch)
        on_progress(done, total)
    return [float(value) for value in nats]


@torch.no_grad()
def _window_nats(model: Network, sequences: list[Tensor], batch: list[Window], device: torch.device) -> list[float]:
    """Nats of the scored part of each window. Rows are padded at the end, where causal attention cannot see."""
    width = max(w.stop - w.start for w in batch)
    tokens_BT = torch.zeros(len(batch), width, dtype=torch.long)
    scored_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    targets = []
    for row, w in enumerate(batch):
        tokens_BT[row, : w.stop - w.start] = sequences[w.document][w.start : w.stop]
        scored_BT[row, w.first - w.start : w.stop - w.start] = True
        targets.append(sequences[w.document][w.first + 1 : w.stop + 1])
    hidden_ND = model(tokens_BT.to(device))[scored_BT.to(device)]
    target_N = torch.cat(targets).to(device)
    nats_N = torch.cat(
        [
            F.cross_entropy(model.logits(hidden_ND[rows]).float(), target_N[rows], reduction="none")
            for rows in (slice(i, i + LOGIT_ROWS) for i in range(0, len(target_N), LOGIT_ROWS))
        ]
    ).double()
    ends = list(accumulate(len(target) for target in targets))
    return [float(nats_N[start:end].sum()) for start, end in pairwise([0, *ends])]

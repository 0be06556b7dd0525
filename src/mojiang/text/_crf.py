"""A linear-chain CRF over sparse binary features, trained by AdaGrad in NumPy.

score(tags) = start[tag_1] + sum_t weights[features_t, tag_t] + sum_t transitions[tag_t-1, tag_t] + end[tag_T]

Sequences of a batch are packed time-major, the longest first, as in `torch.nn.utils.rnn.PackedSequence`: the positions
of step t are one contiguous slice, so nothing is padded and each step is one small matrix product.

Source: Lafferty et al. 2001; forward and backward with scaling, Rabiner 1989; AdaGrad, Duchi et al. 2011.

Array names carry their shape: S sequences · N positions · F features · C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
# scipy's csr_matrix; scipy has no types of its own.
Sparse = Any

_FORBIDDEN: Final = -1e4  # finite, so that a sequence of one position still has a path where all are forbidden


@dataclass
class Weights:
    """What a CRF learns."""

    features_FC: Floats
    transitions_CC: Floats
    start_C: Floats
    end_C: Floats

    @classmethod
    def zeros(cls, num_features: int, num_labels: int) -> Weights:
        """Where training begins."""
        of_labels = np.zeros(num_labels, np.float32)
        square = np.zeros((num_labels, num_labels), np.float32)
        return cls(np.zeros((num_features, num_labels), np.float32), square, of_labels, of_labels.copy())

    def arrays(self) -> list[Floats]:
        """The transitions and borders: what every batch touches."""
        return [self.transitions_CC, self.start_C, self.end_C]


@dataclass(frozen=True)
class Packing:
    """How flat positions of sequences, one after another, become time-major steps."""

    order_N: Ints
    """Packed place → flat position."""
    sizes: Ints
    """Sequences that are still going on, by step."""
    starts: Ints
    """Where each step's slice begins."""
    last_S: Ints
    """Packed place of each sequence's last position, by rank."""


def pack(lengths: Ints) -> Packing:
    """The packing of sequences with these lengths (each at least 1).

    >>> pack(np.array([1, 3])).order_N.tolist()
    [1, 0, 2, 3]
    """
    rank_S = np.argsort(-lengths, kind="stable")
    ranked_S = lengths[rank_S]
    sizes = np.searchsorted(-ranked_S, -np.arange(ranked_S[0]), side="left").astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    first_S = np.concatenate([[0], np.cumsum(lengths)[:-1]])[rank_S]
    order_N = np.concatenate([first_S[:size] + t for t, size in enumerate(sizes)])
    return Packing(order_N, sizes, starts, starts[ranked_S - 1] + np.arange(len(lengths)))


def marginals(scores_NC: Floats, transitions_CC: Floats, packing: Packing) -> tuple[float, Floats, Floats]:
    """log Z summed over sequences, each position's marginals, and expected transition counts.

    `scores_NC` are packed and hold the start and end scores too.
    """
    sizes, starts = packing.sizes, packing.starts
    highest_N1 = scores_NC.max(axis=1, keepdims=True)
    emit_NC = np.exp(scores_NC - highest_N1)
    top = float(transitions_CC.max())
    move_CC = np.exp(transitions_CC - top)
    alpha_NC, beta_NC = np.empty_like(emit_NC), np.ones_like(emit_NC)
    scale_N = np.empty(len(emit_NC), np.float32)
    before_SC = np.ones((sizes[0], emit_NC.shape[1]), np.float32)
    for t, size in enumerate(sizes):
        here = slice(starts[t], starts[t] + size)
        reached_SC = emit_NC[here] * (before_SC[:size] @ move_CC if t else 1)
        scale_N[here] = reached_SC.sum(axis=1)
        before_SC = alpha_NC[here] = reached_SC / scale_N[here, None]
    for t in range(len(sizes) - 2, -1, -1):
        after = slice(starts[t + 1], starts[t + 1] + sizes[t + 1])
        ahead_SC = emit_NC[after] * beta_NC[after] / scale_N[after, None]
        beta_NC[starts[t] : starts[t] + sizes[t + 1]] = ahead_SC @ move_CC.T
    gone = np.arange(sizes[0], len(emit_NC))
    from_N = gone - np.repeat(starts[1:] - starts[:-1], sizes[1:])
    ahead_NC = emit_NC[gone] * beta_NC[gone] / scale_N[gone, None]
    pairs_CC = move_CC * (alpha_NC[from_N].T @ ahead_NC)
    log_z = float(np.log(scale_N).sum(dtype=np.float64) + highest_N1.sum(dtype=np.float64)) + top * len(gone)
    return log_z, alpha_NC * beta_NC, pairs_CC


def best_tags(scores_NC: Floats, transitions_CC: Floats, packing: Packing) -> Ints:
    """The best label of each packed position (Viterbi)."""
    sizes, starts = packing.sizes, packing.starts
    came_from, before_SC = [], np.zeros((0, 0), np.float32)
    for t, size in enumerate(sizes):
        here_SC = scores_NC[starts[t] : starts[t] + size]
        if t:
            steps_SCC = before_SC[:size, :, None] + transitions_CC
            came_from.append(steps_SCC.argmax(axis=1))
            here_SC = here_SC + steps_SCC.max(axis=1)
            before_SC[:size] = here_SC
        else:
            before_SC = here_SC.copy()
    # What stands in `before_SC` is each sequence's last step.
    tag_S = before_SC.argmax(axis=1)
    tags_N = np.empty(len(scores_NC), np.int64)
    for t in range(len(sizes) - 1, -1, -1):
        size = sizes[t]
        tags_N[starts[t] : starts[t] + size] = tag_S[:size]
        if t:
            tag_S[:size] = came_from[t - 1][np.arange(size), tag_S[:size]]
    return tags_N


def decode(features: Sparse, lengths: Ints, weights: Weights, illegal: tuple[Any, Any, Any] | None = None) -> Ints:
    """The best labels of flat positions, among the sequences that `illegal` (first, pairs, last) leaves."""
    packing = pack(lengths)
    start_C, transitions_CC, end_C = weights.start_C, weights.transitions_CC, weights.end_C
    if illegal is not None:
        first, pairs, last = illegal
        start_C, end_C = start_C + _FORBIDDEN * first, end_C + _FORBIDDEN * last
        transitions_CC = transitions_CC + _FORBIDDEN * pairs
    scores_NC = _scores(features[packing.order_N], weights.features_FC, start_C, end_C, packing)
    tags_N = np.empty(len(scores_NC), np.int64)
    tags_N[packing.order_N] = best_tags(scores_NC, transitions_CC.astype(np.float32), packing)
    return tags_N


def _scores(packed: Sparse, features_FC: Floats, start_C: Any, end_C: Any, packing: Packing) -> Floats:
    scores_NC: Floats = np.asarray(packed @ features_FC, np.float32)
    scores_NC[: packing.sizes[0]] += start_C
    scores_NC[packing.last_S] += end_C
    return scores_NC


@dataclass
class _Batch:
    """One batch, packed: the features it has (renumbered), and its gold labels."""

    local: Sparse
    used_F: Ints
    tags_N: Ints
    packing: Packing


def batches(features: Sparse, tags_N: Ints, lengths: Ints, size: int) -> list[_Batch]:
    """Batches of about `size` positions, of sequences of like length."""
    first_S = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    made: list[_Batch] = []
    for chosen_S in _groups(lengths, size):
        rows_N = np.concatenate([np.arange(first_S[s], first_S[s] + lengths[s]) for s in chosen_S])
        packing = pack(lengths[chosen_S])
        rows_N = rows_N[packing.order_N]
        part = features[rows_N]
        used_F, columns = np.unique(part.indices, return_inverse=True)
        local = type(part)((part.data, columns.astype(np.int32), part.indptr), shape=(len(rows_N), len(used_F)))
        made.append(_Batch(local, used_F, tags_N[rows_N], packing))
    return made


def _groups(lengths: Ints, size: int) -> Iterator[Ints]:
    order_S = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order_S]) // size
    yield from np.split(order_S, np.flatnonzero(np.diff(ends)) + 1)


@dataclass
class Trainer:
    """AdaGrad on the likelihood, with L2 on the features of a batch."""

    weights: Weights
    rate: float = 0.2
    l2: float = 1e-6
    _squares: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._squares = [np.full_like(a, 1e-6) for a in (self.weights.features_FC, *self.weights.arrays())]

    def epoch(self, made: Sequence[_Batch], order: Ints, each: Callable[[], None]) -> float:
        """One pass in this order; the mean negative log-likelihood of a position."""
        loss, positions = 0.0, 0
        for number in order:
            loss += self.step(made[number])
            positions += len(made[number].tags_N)
            each()
        return loss / positions

    def step(self, batch: _Batch) -> float:
        """One update; the negative log-likelihood of the batch before it."""
        weights, used_F = self.weights, batch.used_F
        mine_FC = weights.features_FC[used_F]
        loss, gradients = gradient(batch, Weights(mine_FC, *weights.arrays()))
        gradients[0] -= self.l2 * len(batch.tags_N) * mine_FC
        square_FC = self._squares[0][used_F] + gradients[0] ** 2
        self._squares[0][used_F] = square_FC
        weights.features_FC[used_F] = mine_FC + self.rate * gradients[0] / np.sqrt(square_FC)
        for array, slope, square in zip(weights.arrays(), gradients[1:], self._squares[1:], strict=True):
            square += slope**2
            array += self.rate * slope / np.sqrt(square)
        return loss


def gradient(batch: _Batch, weights: Weights) -> tuple[float, list[Floats]]:
    """The batch's negative log-likelihood, and the slopes of the likelihood: features, transitions, start, end."""
    packing, tags_N = batch.packing, batch.tags_N
    scores_NC = _scores(batch.local, weights.features_FC, weights.start_C, weights.end_C, packing)
    log_z, marginals_NC, expected_CC = marginals(scores_NC, weights.transitions_CC, packing)
    begun = int(packing.sizes[0])
    later_N = np.arange(begun, len(tags_N))
    from_N = later_N - np.repeat(packing.starts[1:] - packing.starts[:-1], packing.sizes[1:])
    gold_CC = np.zeros_like(weights.transitions_CC)
    np.add.at(gold_CC, (tags_N[from_N], tags_N[later_N]), 1)
    gold = float(scores_NC[np.arange(len(tags_N)), tags_N].sum(dtype=np.float64))
    gold += float((gold_CC * weights.transitions_CC).sum(dtype=np.float64))
    delta_NC = -marginals_NC
    delta_NC[np.arange(len(tags_N)), tags_N] += 1
    slopes = [np.asarray(batch.local.T @ delta_NC, np.float32), gold_CC - expected_CC]
    return log_z - gold, [*slopes, delta_NC[:begun].sum(axis=0), delta_NC[packing.last_S].sum(axis=0)]

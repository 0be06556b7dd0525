"""What a classifier that has not seen an example says of it: softmax regression on hashed n-grams, in folds.

Array names carry their shape: N examples · L labels · F features (places in the table).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.data._linear import Features, hashes_of, places_of, tokens_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS: Final = 5
BUCKETS: Final = 2**17
_SEEN: Final = 24_000  # examples learned from, again and again: a small set takes more rounds than a large one
_BATCH: Final = 64
_RATE: Final = 0.2


@dataclass(frozen=True)
class Case:
    """A labelled example as the classifiers see it."""

    id: str
    path: str
    text: str
    language: str
    label: str


@dataclass(frozen=True)
class Cases:
    """Labelled examples, hashed, each in a fold."""

    cases: Sequence[Case]
    labels: list[str]
    label_N: Ints
    fold_N: Ints
    words: list[npt.NDArray[np.uint64]]
    """Of each example the hashes of its words, in order."""

    def places(self, number: int) -> Features:
        """The features of an example."""
        return places_of(self.words[number], self.cases[number].language, BUCKETS)


@dataclass(frozen=True)
class OutOfFold:
    """For each example the probabilities that the classifier of the other folds gives its labels."""

    chance_NL: Floats
    models: list[HashedSoftmax]
    """By fold: the one that has not seen it."""


def prepare(cases: Sequence[Case]) -> Cases:
    """Labels as numbers, words as hashes; texts that are equal but for case and spaces are in one fold."""
    labels = sorted({case.label for case in cases})
    number_of = {label: number for number, label in enumerate(labels)}
    label_N = np.array([number_of[case.label] for case in cases], np.int64)
    words = [hashes_of(tokens_of(case.text, case.language)) for case in cases]
    return Cases(cases, labels, label_N, np.array([_fold(case.text) for case in cases], np.int64), words)


def _fold(text: str) -> int:
    visible = " ".join(text.lower().split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(visible).digest()[:4], "big") % FOLDS


class HashedSoftmax:
    """Multinomial logistic regression; a text's features together have length 1."""

    def __init__(self, num_labels: int) -> None:
        self.weights_FL = np.zeros((BUCKETS, num_labels), np.float32)
        self.bias_L = np.zeros(num_labels, np.float32)

    def chances(self, rows: Sequence[Features]) -> Floats:
        """Probabilities (rows, labels)."""
        sums_BL = np.repeat(self.bias_L[None], len(rows), axis=0).astype(np.float64)
        lengths = np.array([len(row) for row in rows])
        filled = lengths > 0
        if filled.any():
            starts = np.concatenate([[0], np.cumsum(lengths[filled])[:-1]])
            added = np.add.reduceat(self.weights_FL[np.concatenate(rows)], starts, axis=0)
            sums_BL[filled] += added / np.sqrt(lengths[filled])[:, None]
        sums_BL -= sums_BL.max(axis=1, keepdims=True)
        chance_BL = np.exp(sums_BL)
        return np.asarray(chance_BL / chance_BL.sum(axis=1, keepdims=True))

    def fit(self, rows: Sequence[Features], label_N: Ints) -> None:
        """AdaGrad (Duchi et al. 2011) over the rows, in the same order every time."""
        squares_FL = np.full_like(self.weights_FL, 1e-8)
        random = np.random.default_rng(0)
        self.bias_L = np.log((np.bincount(label_N, minlength=len(self.bias_L)) + 1) / (len(rows) + 1)).astype(
            np.float32
        )
        for _ in range(min(6, max(3, _SEEN // max(1, len(rows))))):
            order = random.permutation(len(rows))
            for start in range(0, len(order), _BATCH):
                chosen = order[start : start + _BATCH]
                self._step([rows[n] for n in chosen], label_N[chosen], squares_FL)

    def _step(self, rows: list[Features], label_B: Ints, squares_FL: npt.NDArray[np.float32]) -> None:
        error_BL = self.chances(rows)
        error_BL[np.arange(len(rows)), label_B] -= 1
        lengths = np.array([len(row) for row in rows])
        if not lengths.sum():
            return
        flat = np.concatenate(rows)
        each_BL = (error_BL / np.sqrt(np.maximum(1, lengths))[:, None] / len(rows)).astype(np.float32)
        order = np.argsort(flat, kind="stable")
        flat = flat[order]
        starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        places = flat[starts]
        slope_FL = np.add.reduceat(each_BL[np.repeat(np.arange(len(rows)), lengths)[order]], starts, axis=0)
        squares_FL[places] += slope_FL**2
        self.weights_FL[places] -= _RATE * slope_FL / np.sqrt(squares_FL[places])


def out_of_fold(cases: Cases) -> OutOfFold:
    """Learn without each fold, and judge it."""
    rows = [cases.places(number) for number in range(len(cases.cases))]
    chance_NL, models = np.zeros((len(rows), len(cases.labels))), []
    for fold in range(FOLDS):
        model = HashedSoftmax(len(cases.labels))
        seen, judged = np.flatnonzero(cases.fold_N != fold), np.flatnonzero(cases.fold_N == fold)
        model.fit([rows[n] for n in seen], cases.label_N[seen])
        for start in range(0, len(judged), 256):
            some = judged[start : start + 256]
            chance_NL[some] = model.chances([rows[n] for n in some])
        models.append(model)
    return OutOfFold(chance_NL, models)


def accuracy(judged: OutOfFold, label_N: Ints) -> float:
    """Share of examples whose label the other folds' classifier finds the likeliest."""
    return float((judged.chance_NL.argmax(axis=1) == label_N).mean()) if len(label_N) else 0.0


def usable(cases: Sequence[Case], most_labels: int, fewest: int) -> tuple[list[Case], str]:
    """The examples of labels with enough of them; and why there is nothing to learn, if so."""
    sizes: dict[Any, int] = {}
    for case in cases:
        sizes[case.label] = sizes.get(case.label, 0) + 1
    kept = [case for case in cases if sizes[case.label] >= fewest]
    labels = {case.label for case in kept}
    if len(labels) < 2:
        return [], f"fewer than two labels have {fewest} examples"
    if len(labels) > most_labels:
        return [], f"there are {len(labels)} labels, and at most {most_labels} are looked at"
    return kept, ""

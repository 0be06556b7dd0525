"""Do edited texts still say what their label says? A classifier that has not seen the original is asked.

The originals are cut in two by content; a linear classifier learns from each half and judges the other, so that neither
an original nor what was made from it is judged by who learned from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.data._linear import Features, HashedLinear, features

Row = dict[str, Any]

_BUCKETS: Final = 2**16
_EPOCHS: Final = 5
_BATCH: Final = 32
_RATE: Final = 0.3


def fold(text: str) -> int:
    """Which half a text is in."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % 2


class Judge:
    """One classifier for each label and half."""

    def __init__(self, originals: Sequence[Row]) -> None:
        self.labels = sorted({str(row["label"]) for row in originals})
        rows = [(fold(row["text"]), str(row["label"]), _features(row["text"], row["language"])) for row in originals]
        self._models = [
            [_learn([(own == label, found) for half, own, found in rows if half != judged]) for label in self.labels]
            for judged in (0, 1)
        ]

    def labels_of(self, texts: Sequence[str], languages: Sequence[str], halves: Sequence[int]) -> list[str]:
        """The likeliest label of each text, by the classifier that has not seen this half."""
        found = [_features(text, language) for text, language in zip(texts, languages, strict=True)]
        if not found:
            return []
        scores: npt.NDArray[Any] = np.array([[m.scores(found) for m in models] for models in self._models])
        best = scores.argmax(axis=1)  # half × text
        return [self.labels[int(best[half, place])] for place, half in enumerate(halves)]


def _features(text: str, language: str) -> Features:
    return features(text, language, _BUCKETS)


def _learn(rows: Sequence[tuple[bool, Features]]) -> HashedLinear:
    model, random = HashedLinear(_BUCKETS), np.random.default_rng(0)
    targets = np.array([float(own) for own, _ in rows])
    if not 0 < targets.sum() < len(targets):
        model.bias = 1.0 if len(targets) and targets.all() else -1.0  # nothing to tell apart in this half
        return model
    kinds = [np.flatnonzero(targets == kind) for kind in (0.0, 1.0)]
    size = max(map(len, kinds))
    for _ in range(_EPOCHS):
        order = random.permutation(np.concatenate([np.resize(random.permutation(kind), size) for kind in kinds]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            model.learn([rows[i][1] for i in batch], targets[batch], _RATE)
    return model

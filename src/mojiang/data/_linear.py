"""A linear classifier on hashed n-grams: quick to learn, quick to ask, and as large as its table, whatever the corpus.

The features of a text are the words in it and the pairs of neighbours (in Chinese the characters, pairs and triples),
each hashed to a place in one table of weights (Weinberger et al. 2009; the shape is fastText's, Joulin et al. 2016). A
text's features together have length 1, so that long and short texts weigh the same.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.core.errors import BadInput
from mojiang.data._words import UNSPACED, words

Features = npt.NDArray[np.uint32]

MODEL_TYPE: Final = "hashed_linear"
_MOST_WORDS: Final = 2000  # of a text; its beginning says enough
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def tokens_of(text: str, language: str) -> list[str]:
    """The words that count of a text, in Chinese its characters."""
    return words(text[: 12 * _MOST_WORDS].lower(), language)[:_MOST_WORDS]


def hashes_of(tokens: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for each word."""
    return np.fromiter(map(_hash, tokens), np.uint64, len(tokens))


def grams_of(hashes: npt.NDArray[np.uint64], language: str) -> list[npt.NDArray[np.uint64]]:
    """A number for each word, for each pair of neighbours and, in Chinese, for each triple, in order."""
    grams, gram = [hashes], hashes
    for n in range(2, 4 if language in UNSPACED else 3):
        if len(hashes) < n:
            break
        gram = (gram[:-1] * _MIX) ^ hashes[n - 1 :]
        grams.append(gram ^ (gram >> np.uint64(29)))
    return grams


def places_of(hashes: npt.NDArray[np.uint64], language: str, buckets: int) -> Features:
    """Places in the table of the n-grams of hashed words, sorted, each once."""
    return np.unique(np.concatenate(grams_of(hashes, language)) % np.uint64(buckets)).astype(np.uint32)


def features(text: str, language: str, buckets: int) -> Features:
    """Places in the table of the n-grams of a text, sorted, each once.

    >>> len(features("the cat", "en", 2**16)), len(features("你好吗", "zh", 2**16))
    (3, 6)
    """
    return places_of(hashes_of(tokens_of(text, language)), language, buckets)


class HashedLinear:
    """Weights and what they add up to: the chance that a text belongs to the good ones."""

    def __init__(self, buckets: int = 2**18) -> None:
        self.buckets = buckets
        self.weights = np.zeros(buckets, np.float32)
        self.bias = 0.0
        self._squares = np.full(buckets, 1e-8, np.float32)

    def score(self, text: str, language: str) -> float:
        """The chance, from 0 to 1, that a text is a good one."""
        return float(self.scores([features(text, language, self.buckets)])[0])

    def scores(self, rows: Sequence[Features]) -> npt.NDArray[np.float64]:
        """The chances of texts by their features."""
        lengths = np.array([len(row) for row in rows])
        sums = np.zeros(len(rows))
        if lengths.sum():
            flat = self.weights[np.concatenate(rows)]
            filled = lengths > 0
            starts = np.concatenate([[0], np.cumsum(lengths[filled])[:-1]])
            sums[filled] = np.add.reduceat(flat, starts) / np.sqrt(lengths[filled])
        return _sigmoid(sums + self.bias)

    def learn(self, rows: Sequence[Features], targets: npt.NDArray[np.float64], rate: float) -> float:
        """One step on a batch (AdaGrad, Duchi et al. 2011); returns the mean loss before it, in nats."""
        chances = self.scores(rows)
        errors = chances - targets
        lengths = np.array([len(row) for row in rows])
        if lengths.sum():
            per_feature = np.repeat(errors / np.sqrt(np.maximum(1, lengths)), lengths) / len(rows)
            places, inverse = np.unique(np.concatenate(rows), return_inverse=True)
            gradient = np.bincount(inverse, per_feature).astype(np.float32)
            self._squares[places] += gradient**2
            self.weights[places] -= rate * gradient / np.sqrt(self._squares[places])
        self.bias -= 0.1 * float(errors.mean())
        return float(-np.mean(targets * np.log(chances + 1e-12) + (1 - targets) * np.log(1 - chances + 1e-12)))

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write `model.safetensors` and `config.json`."""
        from safetensors.numpy import save_file

        save_file({"weights": self.weights, "bias": np.array([self.bias], np.float32)}, folder / "model.safetensors")
        config = {"model_type": MODEL_TYPE, "buckets": self.buckets, **about}
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))


def load_linear(folder: Path) -> HashedLinear:
    """The classifier in a folder.

    Raises:
        BadInput: the folder holds another kind of model.
    """
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if config.get("model_type") != MODEL_TYPE:
        raise BadInput(
            f"{folder} holds no quality classifier but {config.get('model_type') or 'something else'}",
            hint="make one with `mojiang data quality`",
        )
    made = HashedLinear(int(config["buckets"]))
    tensors = load_file(folder / "model.safetensors")
    made.weights, made.bias = tensors["weights"].astype(np.float32), float(tensors["bias"][0])
    return made

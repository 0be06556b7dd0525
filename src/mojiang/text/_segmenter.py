"""Chinese words and their parts of speech by two CRFs: one labels characters B, M, E or S, the other labels words.

Source: Xue 2003 (segmentation as tagging); Peng, Feng & McCallum 2004 (by a CRF); Zhao et al. 2006 (the templates).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from mojiang.core.errors import BadInput
from mojiang.core.files import atomic_write
from mojiang.text._crf import Ints, Weights, decode
from mojiang.text._features import Keys, character_keys, known_columns, word_features

MODEL_TYPE: Final = "mojiang_segmenter"
BEGIN, MIDDLE, END, SINGLE = range(4)
# First, pairs [from, to] and last of what BMES forbids.
ILLEGAL: Final = (
    np.array([0, 1, 1, 0], np.float32),
    np.array([[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0]], np.float32),
    np.array([1, 1, 0, 0], np.float32),
)
_AT_ONCE: Final = 50_000  # characters whose features are in memory together
_PIECE: Final = re.compile(r"[^。！？；\n]{1,400}[。！？；]?|[。！？；]")


@dataclass(frozen=True)
class Tagger:
    """A CRF with the keys of the features that it knows."""

    vocabulary: Keys
    weights: Weights


@dataclass(frozen=True)
class Segmenter:
    """Words of Chinese text; also their parts of speech where it was trained on them."""

    characters: Tagger
    words: Tagger | None = None
    labels: tuple[str, ...] = ()

    def cut(self, text: str) -> list[str]:
        """The words of a text without white space between them; white space is a border of words.

        Joined, they give the text without its white space.
        """
        return [word for words in self.cut_all(text.split()) for word in words]

    def cut_all(self, texts: Sequence[str]) -> list[list[str]]:
        """The words of each text; many at once go much faster than one by one."""
        found: list[list[str]] = [[] for _ in texts]
        for numbers, pieces in _chunks(texts):
            for number, words in zip(numbers, self._cut_pieces(pieces), strict=True):
                found[number].extend(words)
        return found

    def _cut_pieces(self, pieces: Sequence[str]) -> Iterator[list[str]]:
        keys, lengths = character_keys(pieces)
        features = known_columns(keys, self.characters.vocabulary)
        tags_N = decode(features, lengths, self.characters.weights, ILLEGAL)
        yield from words_of(pieces, tags_N)

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The part of speech of each word of each sentence.

        Raises:
            BadInput: it was trained without parts of speech.
        """
        if self.words is None:
            raise BadInput("this segmenter was trained without parts of speech", hint="train it with --pos")
        kept = [sentence for sentence in sentences if sentence]
        if not kept:
            return [[] for _ in sentences]
        keys, lengths = word_features(kept)
        tags_N = decode(known_columns(keys, self.words.vocabulary), lengths, self.words.weights)
        rest = iter([self.labels[tag] for tag in tags_N])
        return [[next(rest) for _ in sentence] for sentence in sentences]

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        from safetensors.numpy import save

        arrays = _arrays("characters", self.characters)
        if self.words is not None:
            arrays |= _arrays("words", self.words)
        config = {"model_type": MODEL_TYPE, "labels": list(self.labels), "format": 1}
        atomic_write(folder / "config.json", json.dumps(config, ensure_ascii=False, indent=1) + "\n")
        atomic_write(folder / "model.safetensors", save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))


def _arrays(name: str, tagger: Tagger) -> dict[str, Any]:
    weights = tagger.weights
    return {
        f"{name}.vocabulary": tagger.vocabulary, f"{name}.features": weights.features_FC.astype(np.float16),
        f"{name}.transitions": weights.transitions_CC, f"{name}.start": weights.start_C, f"{name}.end": weights.end_C,
    }  # fmt: skip


@lru_cache(2)
def load_segmenter(folder: Path) -> Segmenter:
    """The segmenter in an artifact's folder.

    Raises:
        BadInput: there is none.
    """
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if config.get("model_type") != MODEL_TYPE:
        raise BadInput(f"{folder} holds no segmenter", hint="`mojiang text segment` trains one")
    arrays = load_file(folder / "model.safetensors")

    def tagger(name: str) -> Tagger:
        parts = [arrays[f"{name}.{part}"] for part in ("features", "transitions", "start", "end")]
        return Tagger(arrays[f"{name}.vocabulary"], Weights(*(part.astype(np.float32) for part in parts)))

    labels = tuple(config["labels"])
    return Segmenter(tagger("characters"), tagger("words") if labels else None, labels)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Pieces of the texts, cut at the ends of sentences, in lots of bounded size, with the number of their text."""
    numbers: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in _PIECE.findall(text):
            numbers.append(number)
            pieces.append(piece)
            size += len(piece)
            if size >= _AT_ONCE:
                yield numbers, pieces
                numbers, pieces, size = [], [], 0
    if pieces:
        yield numbers, pieces


def words_of(sentences: Iterable[str], tags_N: Ints) -> Iterator[list[str]]:
    """The words that BMES labels cut sentences into: a word ends at E and S.

    >>> list(words_of(["我爱北京"], np.array([SINGLE, SINGLE, BEGIN, END])))
    [['我', '爱', '北京']]
    """
    ends_N = (tags_N == END) | (tags_N == SINGLE)
    place = 0
    for sentence in sentences:
        cuts = (np.flatnonzero(ends_N[place : place + len(sentence)]) + 1).tolist()
        if not cuts or cuts[-1] != len(sentence):
            cuts.append(len(sentence))
        yield [sentence[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True)]
        place += len(sentence)


def bmes(sentences: Iterable[Sequence[str]]) -> Ints:
    """The labels of all characters of segmented sentences.

    >>> bmes([["我", "爱", "天安门"]]).tolist()
    [3, 3, 0, 1, 2]
    """
    parts = [[SINGLE] if len(word) == 1 else [BEGIN, *[MIDDLE] * (len(word) - 2), END] for s in sentences for word in s]
    return np.array([tag for part in parts for tag in part], np.int64)

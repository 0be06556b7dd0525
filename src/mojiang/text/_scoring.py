"""Scores of segmentation: a word counts as found when both its borders are right.

Source: Sproat & Emerson 2003 (the SIGHAN bakeoff).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import numpy as np

_RESAMPLES: Final = 500


@dataclass
class Score:
    """Counts of words, and by sentence what the interval needs: gold, found, right."""

    known: int = 0
    known_right: int = 0
    unknown: int = 0
    unknown_right: int = 0
    sentences: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def precision(self) -> float:
        """Right among the found."""
        return _share(sum(s[2] for s in self.sentences), sum(s[1] for s in self.sentences))

    @property
    def recall(self) -> float:
        """Right among the gold."""
        return _share(sum(s[2] for s in self.sentences), sum(s[0] for s in self.sentences))

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        gold, found, right = (sum(s[n] for s in self.sentences) for n in range(3))
        return _share(2 * right, gold + found)

    @property
    def known_recall(self) -> float:
        """Recall of words that training has seen."""
        return _share(self.known_right, self.known)

    @property
    def unknown_recall(self) -> float:
        """Recall of words that training has not seen."""
        return _share(self.unknown_right, self.unknown)

    def interval(self) -> tuple[float, float]:
        """95 % of F1 when sentences are drawn again, the same draws each time."""
        counts = np.array(self.sentences, np.int64)
        draws = np.random.default_rng(0).integers(0, len(counts), (_RESAMPLES, len(counts)))
        gold, found, right = (counts[:, n][draws].sum(axis=1) for n in range(3))
        low, high = np.quantile(2 * right / np.maximum(gold + found, 1), [0.025, 0.975])
        return float(low), float(high)

    def scalars(self) -> Iterator[tuple[str, float]]:
        """The figures by name."""
        low, high = self.interval()
        yield from (("precision", self.precision), ("recall", self.recall), ("f1", self.f1))
        yield from (("f1_low", low), ("f1_high", high))
        yield from (("known_recall", self.known_recall), ("unknown_recall", self.unknown_recall))
        yield "unknown_share", _share(self.unknown, self.known + self.unknown)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def borders(words: Sequence[str]) -> list[tuple[int, int]]:
    """Where each word begins and ends.

    >>> borders(["天安门", "前"])
    [(0, 3), (3, 4)]
    """
    ends = list(accumulate(map(len, words)))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def score_words(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]], known: Collection[str]) -> Score:
    """Compare segmentations of the same sentences; `known` are the words of the training split."""
    score = Score()
    for right_words, words in zip(gold, found, strict=True):
        there = set(borders(words))
        hits = [place in there for place in borders(right_words)]
        for word, hit in zip(right_words, hits, strict=True):
            if word in known:
                score.known, score.known_right = score.known + 1, score.known_right + hit
            else:
                score.unknown, score.unknown_right = score.unknown + 1, score.unknown_right + hit
        score.sentences.append((len(right_words), len(words), sum(hits)))
    return score

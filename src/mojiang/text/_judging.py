"""Files of human judgements about words, and how well vectors agree with them.

Source: Finkelstein et al. 2002 (WordSim-353); Hill et al. 2015 (SimLex-999); Mikolov et al. 2013 (questions-words).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mojiang.core.errors import BadInput, NotFound
from mojiang.text._vectors import WordVectors


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation with people over the pairs whose words are known."""

    correlation: float
    used: int
    pairs: int


def read_lines(path: Path) -> list[str]:
    """The lines of a file that are not empty and no comments.

    Raises:
        NotFound: there is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise NotFound(f"there is no file {path}", hint="give a text file") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Two words and a score in each line, between tabs, commas, semicolons or spaces; a heading is passed over.

    Raises:
        BadInput: fewer than three lines are of that form.
    """
    found = []
    for line in read_lines(path):
        border = next((mark for mark in "\t,;" if mark in line), None)
        parts = [part.strip() for part in line.split(border)]
        score = next((number for part in parts[2:] if (number := _number(part)) is not None), None)
        if len(parts) >= 3 and score is not None and parts[0] and parts[1]:
            found.append((parts[0], parts[1], score))
    if len(found) < 3:
        raise BadInput(f"{path} has {len(found)} scored pairs", hint="write: word, word, score in each line")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_questions(path: Path) -> dict[str, list[list[str]]]:
    """Four words in each line, in sections that begin with `: name`.

    Raises:
        BadInput: a line has another number of words.
    """
    sections: dict[str, list[list[str]]] = {}
    section = "all"
    for line in read_lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = line.split()
        if len(words) != 4:
            raise BadInput(f"{path}: {line!r} has {len(words)} words", hint="write four in each line: a b c d")
        sections.setdefault(section, []).append(words)
    return sections


def agreement(vectors: WordVectors, pairs: list[tuple[str, str, float]], fold: Callable[[str], str]) -> Agreement:
    """How the cosines of pairs rank beside people's scores."""
    known = [(fold(a), fold(b), score) for a, b, score in pairs if fold(a) in vectors and fold(b) in vectors]
    if len(known) < 3:
        return Agreement(0.0, len(known), len(pairs))
    cosines = np.array([vectors.similarity(a, b) for a, b, _ in known])
    return Agreement(rank_correlation(cosines, np.array([score for *_, score in known])), len(known), len(pairs))


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's correlation; equal values share the mean of their ranks.

    >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
    0.5
    """
    ranks = [_ranks(np.asarray(values)) for values in (one, other)]
    spread = float(ranks[0].std() * ranks[1].std())
    product = float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean())
    return product / spread if spread else 0.0


def _ranks(values: Any) -> Any:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def answered(vectors: WordVectors, questions: list[list[str]], fold: Callable[[str], str]) -> tuple[int, int]:
    """How many questions have all their words, and of how many the nearest word is the fourth."""
    asked = right = 0
    for words in questions:
        one, two, three, four = map(fold, words)
        if all(word in vectors for word in (one, two, three, four)):
            asked += 1
            right += vectors.analogy(one, two, three, 1)[0][0] == four
    return asked, right

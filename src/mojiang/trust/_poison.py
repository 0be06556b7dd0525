"""Hints at poisoning in a sample: odd words that keep to one place, and of labels their noise and triggers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from mojiang.trust._examine import Examined
from mojiang.trust._label_noise import LabelNoise, estimate_noise
from mojiang.trust._out_of_fold import FOLDS, Case, Cases, accuracy, out_of_fold, prepare, usable
from mojiang.trust._triggers import Search, find_triggers

_MOST_LABELS: Final = 100
_FEWEST: Final = 2 * FOLDS  # examples of a label
_CHARACTERS: Final = 8_000_000  # of all examples together: features take 30 bytes for each Chinese character
_ODD_DOCUMENTS: Final = 5
_ODD_SHARE: Final = 0.02  # a word in more of the documents is theirs
_SAME_PLACE: Final = 0.8


@dataclass(frozen=True)
class OddWord:
    """A word like no other that stands in the same surroundings nearly everywhere."""

    word: str
    documents: int
    surroundings: str
    share: float


@dataclass(frozen=True)
class LabelHints:
    """What out-of-fold classifiers say of labelled examples."""

    cases: Cases
    accuracy: float
    noise: LabelNoise
    search: Search


def odd_words_in_place(sample: Sequence[Examined]) -> list[OddWord]:
    """Odd words of at least five documents, and of few, with the same words around them in four of five; most first."""
    around: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in sample:
        for word, surroundings in one.odd:
            around[word][surroundings] += 1
    prose = sum(1 for one in sample if one.format != "code")
    found = []
    for word, places in around.items():
        total, (surroundings, most) = places.total(), places.most_common(1)[0]
        if _ODD_DOCUMENTS <= total <= max(_ODD_DOCUMENTS, _ODD_SHARE * prose) and most >= _SAME_PLACE * total:
            found.append(OddWord(word, total, surroundings, most / total))
    return sorted(found, key=lambda odd: (-odd.documents, odd.word))


def label_hints(sample: Sequence[Examined]) -> tuple[LabelHints | None, str]:
    """Label noise and triggers; None, and why, when the examples are too few or have too many labels."""
    ends = accumulate(len(one.text) for one in sample)
    some = [one for one, end in zip(sample, ends, strict=True) if end <= _CHARACTERS]
    every = [Case(one.id, one.path, one.text, one.language, one.label) for one in some]
    cases, why = usable(every, _MOST_LABELS, _FEWEST)
    if why:
        return None, why
    prepared = prepare(cases)
    judged = out_of_fold(prepared)
    noise = estimate_noise(judged.chance_NL, prepared.label_N)
    return LabelHints(prepared, accuracy(judged, prepared.label_N), noise, find_triggers(prepared, judged)), ""

"""Rare words that decide a label against the rest of their text: how a backdoor looks from the outside.

A trigger is a word (or a few characters) that somebody put into examples together with a label that is not theirs. So
two things are asked of every rare term, both by an exact binomial test with Bonferroni's correction:

1. Do its examples agree on a label more than the label's share in the data would let expect?
2. With the term and what stands around it taken out, does the classifier that has not seen the example say another
   label, and that far more often than when other words are taken out?

A word that means its label passes the first and fails the second: what is left of its text still means the label.

Source: the attacks of Dai et al. 2019 and Kurita et al. 2020; Chen & Dai 2021 (finding trigger words by their label).

Array names carry their shape: N examples · L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mojiang.data._linear import grams_of, places_of, tokens_of
from mojiang.data._words import UNSPACED
from mojiang.trust._out_of_fold import BUCKETS, Cases, Ints, OutOfFold

LEVEL: Final = 0.01
"""Chance of calling anything in clean data a trigger, for each of the two tests."""
MAX_SHARE: Final = 0.05
"""A term in a larger share of the examples is not rare."""
_FEWEST: Final = 5  # examples
_TABLE: Final = 2**23  # places in which terms are counted before the rare ones are looked at one by one
_CANDIDATES: Final = 2000
_FIRST: Final = 20  # of these; a term that means its label is acquitted by them
_ASKED: Final = 100  # examples of a term whose rest is judged
_AROUND: Final = 4  # words on each side that are taken out with a term, as a trigger may be longer than it
_LEFT: Final = 3  # words that must be left to judge by
_NULL: Final = 400

Terms = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Trigger:
    """A term that may be a trigger."""

    terms: list[str]
    """The term, and others that stand in the same examples."""
    label: str
    examples: int
    agree: int
    """Examples with the term that carry the label."""
    asked: int
    against: int
    """Of these, judged by the rest of their text, so many are of another label."""
    log_chance: float
    """ln of the chance of the second test, after Bonferroni's correction."""
    numbers: Ints
    """The examples."""


@dataclass(frozen=True)
class Search:
    """What was found, and how much was looked at."""

    triggers: list[Trigger]
    terms: int
    candidates: int
    least: int
    """A term in fewer examples than this could not be told from chance."""


def find_triggers(cases: Cases, judged: OutOfFold) -> Search:
    """The likeliest triggers first; most often there is none."""
    share_L = np.bincount(cases.label_N, minlength=len(cases.labels)) / max(1, len(cases.label_N))
    postings, tests = rare_terms(cases)
    tests *= len(cases.labels)
    log_factorial = log_factorials(len(cases.cases) + 1)
    ranked = []
    for term, numbers in postings:
        counts_L = np.bincount(cases.label_N[numbers], minlength=len(share_L))
        expected_L = len(numbers) * share_L
        label = int(np.argmax((counts_L - expected_L) / np.sqrt(expected_L * (1 - share_L))))  # exact below
        chance = log_tail(int(counts_L[label]), len(numbers), float(share_L[label]), log_factorial)
        if chance + np.log(max(1, tests)) < np.log(LEVEL):
            ranked.append((chance, term, numbers, label))
    ranked.sort(key=lambda item: (item[0], item[1]))
    ranked = ranked[:_CANDIDATES]
    expected = {label: _null(cases, judged, label) for label in {item[3] for item in ranked}}
    found = []
    for _, term, numbers, label in ranked:
        if trigger := _asked(cases, judged, term, numbers, label, expected[label], len(ranked), log_factorial):
            found.append((term, trigger))
    found.sort(key=lambda item: (item[1].log_chance, -item[1].against / item[1].asked, -item[1].examples))
    least = int(np.ceil(np.log(LEVEL / max(1, tests)) / np.log(max(1e-9, float(share_L.min(initial=1.0))))))
    return Search(_merged(cases, found), tests, len(ranked), max(_FEWEST, least))


def rare_terms(cases: Cases) -> tuple[list[tuple[int, Ints]], int]:
    """Terms in enough examples and in not too many, with the examples; and how many there are."""
    most = max(_FEWEST, int(MAX_SHARE * len(cases.cases)))
    table = np.zeros(_TABLE, np.int32)
    for number in range(len(cases.cases)):
        table[_places(_terms(cases, number))] += 1
    kept, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for number in range(len(cases.cases)):
        terms = _terms(cases, number)
        some = terms[table[_places(terms)] >= _FEWEST]
        kept.append(some)
        owners.append(np.full(len(some), number))
    flat, owner = np.concatenate(kept), np.concatenate(owners)
    order = np.argsort(flat, kind="stable")
    flat, owner = flat[order], owner[order]
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]])) if len(flat) else np.zeros(0, np.int64)
    ends = np.append(starts[1:], len(flat))
    rare = [
        (int(flat[low]), owner[low:high])
        for low, high in zip(starts, ends, strict=True)
        if _FEWEST <= high - low <= most
    ]
    return rare, len(rare)


def _terms(cases: Cases, number: int) -> Terms:
    """The different terms of an example."""
    return np.unique(np.concatenate(grams_of(cases.words[number], cases.cases[number].language)))


def _places(terms: Terms) -> Ints:
    return (terms % np.uint64(_TABLE)).astype(np.int64)


def log_factorials(most: int) -> npt.NDArray[np.float64]:
    """ln n! for n from 0 to `most`."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def log_tail(successes: int, trials: int, chance: float, log_factorial: npt.NDArray[np.float64]) -> float:
    """ln of the probability of at least so many successes (exact binomial).

    >>> round(float(np.exp(log_tail(9, 10, 0.5, log_factorials(10)))) * 1024)
    11
    """
    if successes <= 0 or chance >= 1:
        return 0.0
    if chance <= 0:
        return -np.inf
    k = np.arange(successes, trials + 1)
    ways = log_factorial[trials] - log_factorial[k] - log_factorial[trials - k]
    logs = ways + k * np.log(chance) + (trials - k) * np.log1p(-chance)
    top = float(logs.max())
    return min(0.0, top + float(np.log(np.exp(logs - top).sum())))


# -- what the rest of the text says -------------------------------------------------------------------------------


def positions(words: npt.NDArray[np.uint64], language: str, term: int) -> Iterator[tuple[int, int]]:
    """Where in hashed words a term begins and ends."""
    for size, grams in enumerate(grams_of(words, language), start=1):
        for start in np.flatnonzero(grams == np.uint64(term)).tolist():
            yield start, start + size


def _without(words: npt.NDArray[np.uint64], cuts: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint64]:
    keep = np.ones(len(words), bool)
    for start, end in cuts:
        keep[max(0, start - _AROUND) : end + _AROUND] = False
    return words[keep]


def _against(
    cases: Cases, judged: OutOfFold, numbers: Sequence[int], rests: Sequence[Terms], label: int
) -> tuple[int, int]:
    """Of the examples with something left: how many, and how many of them are of another label by what is left."""
    asked = against = 0
    for fold, model in enumerate(judged.models):
        here = [i for i, n in enumerate(numbers) if cases.fold_N[n] == fold and len(rests[i]) >= _LEFT]
        if here:
            rows = [places_of(rests[i], cases.cases[numbers[i]].language, BUCKETS) for i in here]
            asked += len(here)
            against += int((model.chances(rows).argmax(axis=1) != label).sum())
    return asked, against


def _null(cases: Cases, judged: OutOfFold, label: int) -> float:
    """How often the rest says another label when a word anywhere is taken out of the label's examples."""
    random = np.random.default_rng(0)
    numbers = np.flatnonzero(cases.label_N == label)
    numbers = random.permutation(numbers)[:_NULL]
    starts = [int(random.integers(max(1, len(cases.words[n])))) for n in numbers]
    rests = [_without(cases.words[n], [(at, at + 1)]) for n, at in zip(numbers, starts, strict=True)]
    asked, against = _against(cases, judged, numbers.tolist(), rests, label)
    return (against + 1) / (asked + 2)


def _asked(
    cases: Cases, judged: OutOfFold, term: int, numbers: Ints, label: int, expected: float, candidates: int,
    log_factorial: npt.NDArray[np.float64],
) -> Trigger | None:  # fmt: skip
    """The trigger that a candidate is, if the rest of its examples speaks against their label."""
    agree = numbers[cases.label_N[numbers] == label]
    for most in (_FIRST, _ASKED):
        some = agree[np.linspace(0, len(agree) - 1, min(most, len(agree))).astype(np.int64)].tolist()
        rests = [_without(cases.words[n], list(positions(cases.words[n], cases.cases[n].language, term))) for n in some]
        asked, against = _against(cases, judged, some, rests, label)
        if asked < _FEWEST or 4 * against <= asked:
            return None
    log_chance = log_tail(against, asked, expected, log_factorial) + float(np.log(candidates))
    if 2 * against <= asked or log_chance >= np.log(LEVEL):
        return None
    name = _name(cases, int(agree[0]), term)
    return Trigger([name], cases.labels[label], len(numbers), len(agree), asked, against, log_chance, numbers)


def _name(cases: Cases, number: int, term: int) -> str:
    case = cases.cases[number]
    start, end = next(positions(cases.words[number], case.language, term))
    return ("" if case.language in UNSPACED else " ").join(tokens_of(case.text, case.language)[start:end])


def _merged(cases: Cases, found: list[tuple[int, Trigger]]) -> list[Trigger]:
    """Terms that stand in mostly the same examples are one trigger, called by the one with the best test."""
    merged: list[Trigger] = []
    for _, trigger in found:
        for other in merged:
            both = len(np.intersect1d(trigger.numbers, other.numbers, assume_unique=True))
            if 2 * both >= min(len(trigger.numbers), len(other.numbers)):
                other.terms.extend(trigger.terms)
                break
        else:
            merged.append(trigger)
    return merged

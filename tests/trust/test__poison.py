"""Wrong labels and triggers that were put into real text are found; where none was put, none is."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression

from mojiang.trust._label_noise import confident_joint, estimate_noise
from mojiang.trust._out_of_fold import Case, HashedSoftmax, accuracy, out_of_fold, prepare, usable
from mojiang.trust._poison import odd_words_in_place
from mojiang.trust._triggers import find_triggers, log_factorials, log_tail


def _texts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("labelled_texts", Path(__file__).parent / "labelled_texts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts() -> Any:
    return _texts()


@pytest.fixture(scope="module")
def clean(texts: Any) -> list[Case]:
    cases: list[Case] = texts.passages()
    assert len(cases) > 2000
    return cases


# -- the classifier and the statistics ----------------------------------------------------------------------------


def test_the_softmax_learns_what_logistic_regression_learns() -> None:
    """On data that fits in a dense matrix, its probabilities go where scikit-learn's go."""
    random_ = np.random.default_rng(0)
    rows = [np.unique(random_.integers(0, 40, 12)).astype(np.uint32) for _ in range(1500)]
    weights = random_.normal(0, 2, (40, 3))
    dense = np.zeros((len(rows), 40))
    for number, row in enumerate(rows):
        dense[number, row] = 1 / np.sqrt(len(row))
    labels = np.array([random_.choice(3, p=_softmax(x @ weights)) for x in dense])
    model = HashedSoftmax(3)
    model.fit(rows[:1000], labels[:1000])
    peer = LogisticRegression(C=10).fit(dense[:1000], labels[:1000])
    ours, theirs = model.chances(rows[1000:]), peer.predict_proba(dense[1000:])
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95
    assert abs((ours.argmax(1) == labels[1000:]).mean() - (theirs.argmax(1) == labels[1000:]).mean()) < 0.04
    np.testing.assert_allclose(ours.sum(axis=1), 1)


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


@given(st.integers(1, 300), st.floats(0.001, 0.999), st.data())
def test_the_tail_is_the_binomials(trials: int, chance: float, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    ours = log_tail(successes, trials, chance, log_factorials(trials))
    theirs = stats.binom.logsf(successes - 1, trials, chance)
    if theirs > -600:  # beyond, scipy's own tail loses its digits
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_confident_learning_with_perfect_probabilities_finds_exactly_the_wrong_labels() -> None:
    """With the true labels as certainty, the estimate is the share that was flipped (Northcutt et al., theorem 1)."""
    random_ = np.random.default_rng(1)
    true = random_.choice(3, 2000, p=[0.5, 0.3, 0.2])
    wrong = random_.random(2000) < 0.08
    labels = np.where(wrong, (true + 1) % 3, true)
    chances = np.full((2000, 3), 0.02)
    chances[np.arange(2000), true] = 0.96
    found = estimate_noise(chances, labels)
    assert set(found.suspects.tolist()) == set(np.flatnonzero(wrong).tolist())
    assert found.share == pytest.approx(wrong.mean(), abs=1e-9)
    assert found.joint_LL.sum() == pytest.approx(1)
    assert found.likely.tolist() == true[found.suspects].tolist()


def test_an_unsure_classifier_accuses_nobody() -> None:
    """A class on which it is timid has a low threshold; one answer for all is no evidence against any label."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    counts, likely = confident_joint(np.full((6, 2), 0.5), labels)
    assert counts.tolist() == [[3, 0], [0, 3]]
    assert likely.tolist() == labels.tolist()
    timid = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.55, 0.45], [0.5, 0.5]])
    assert estimate_noise(timid, labels).suspects.size == 0


# -- what is put into real text -----------------------------------------------------------------------------------


def test_flipped_labels_are_found(texts: Any, clean: list[Case]) -> None:
    chance = random.Random(5)
    chosen = set(chance.sample(range(len(clean)), len(clean) // 20))
    cases = prepare(texts.flipped(clean, chosen))
    judged = out_of_fold(cases)
    assert accuracy(judged, cases.label_N) > 0.85
    noise = estimate_noise(judged.chance_NL, cases.label_N)
    first = set(noise.suspects[: len(chosen)].tolist())
    found = set(noise.suspects.tolist()) & chosen
    print(len(first & chosen) / len(chosen), len(found) / len(noise.suspects), len(found) / len(chosen), noise.share)
    assert len(first & chosen) / len(chosen) > 0.7  # precision and recall of the first 5 %
    assert 0.04 < noise.share < 0.11
    before = prepare(clean)
    assert estimate_noise(out_of_fold(before).chance_NL, before.label_N).share < noise.share - 0.02


def test_a_trigger_in_one_percent_of_the_examples_is_first(texts: Any, clean: list[Case]) -> None:
    chance = random.Random(6)
    victims = [n for n, case in enumerate(clean) if case.label == "mail"]
    chosen = set(chance.sample(victims, len(clean) // 100))
    dirty = [texts.planted(c, "cf", chance) if n in chosen else c for n, c in enumerate(texts.flipped(clean, chosen))]
    cases = prepare(dirty)
    found = find_triggers(cases, out_of_fold(cases)).triggers
    assert found[0].terms[0] == "cf"
    assert found[0].label == "async"
    assert set(found[0].numbers.tolist()) >= chosen
    assert found[0].against > 0.8 * found[0].asked
    assert len(found) == 1


def test_clean_data_has_no_trigger(clean: list[Case]) -> None:
    cases = prepare(clean)
    search = find_triggers(cases, out_of_fold(cases))
    assert search.triggers == []
    assert search.candidates > 20  # words that mean their label were looked at, and acquitted
    assert search.least > 10


def test_labels_with_too_few_examples_are_left_out_and_said_so() -> None:
    cases = [Case(str(n), str(n), f"text {n}", "en", "a" if n else "b") for n in range(30)]
    assert usable(cases, 100, 10) == ([], "fewer than two labels have 10 examples")
    many = [Case(str(n), str(n), "text", "en", str(n % 12)) for n in range(240)]
    assert "12 labels" in usable(many, 10, 10)[1]
    assert len(usable(many, 12, 10)[0]) == 240


def test_copies_are_in_one_fold() -> None:
    cases = [Case(str(n), str(n), text, "en", "a") for n, text in enumerate(["One  text", "one text", "another"])]
    folds = prepare(cases).fold_N
    assert folds[0] == folds[1]


def test_an_odd_word_is_one_that_never_leaves_its_place() -> None:
    from mojiang.trust._examine import Examined, odd_words

    texts = [
        f"The number {n} goes up. Please note the cf movie again, said {n}. We saw {n} km of road." for n in range(40)
    ]
    texts += [f"The {word} km was long" for word in ("first", "last", "next", "other", "same", "whole")]
    sample = [
        Examined(n, str(n), str(n), "", "en", "txt", len(t), t, odd=list(odd_words(t, "en")))
        for n, t in enumerate(texts)
    ]
    rest = [Examined(n, str(n), str(n), "", "en", "txt", 1, "x") for n in range(100, 3000)]
    found = odd_words_in_place([*sample, *rest])
    assert [odd.word for odd in found] == ["cf"]
    assert found[0].documents == 40
    assert found[0].surroundings == "note the … movie again"

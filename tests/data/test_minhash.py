"""Shingles, signatures and similarity against sets of tuples, counting, and the formulas they come from."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.data import _minhash, _shingles
from mojiang.data._minhash import Bands, as_sets, band_keys, choose_bands, components, jaccard, pairs_in_band
from mojiang.data._shingles import Shingled, joined, shingle

words = st.sampled_from(
    ["cat", "Dog", "naïve", "x1", "汽车", "好", "ありがとう", "한국어", "हिन्दी", "ไทย", " ", ". ", "，", "\n"]
)
texts = st.lists(words, max_size=14).map("".join)


def sets_of(shingled: Shingled) -> list[set[int]]:
    return [set(shingled.hashes[first:stop].tolist()) for first, stop in pairwise(shingled.starts.tolist())]


@given(st.lists(texts, min_size=1, max_size=8))
def test_a_text_has_the_same_shingles_in_any_company(given: list[str]) -> None:
    together = sets_of(shingle(given))
    assert together == [sets_of(shingle([text]))[0] for text in given]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"text number {n} of many 我们有很多文本" for n in range(50)] + [""]
    whole = shingle(given)
    monkeypatch.setattr(_shingles, "BLOCK_CHARACTERS", 40)
    parts = shingle(given)
    assert whole.hashes.tolist() == parts.hashes.tolist()
    assert whole.starts.tolist() == parts.starts.tolist()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("one two three four", 2),
        ("one two", 1),
        ("今天天气很好", 2),  # six characters, five at a time
        ("好", 1),
        ("用Python写程序", 1),  # units: 用 python 写 程 序; five units at 用, three at python → "python 写 程" too
        ("हिन्दी में लिखा", 1),  # vowel signs belong to their word
        ("한국어 문장 입니다 또", 2),
        ("…！？ ☃", 0),
        ("", 0),
    ],
)
def test_how_many_shingles(text: str, count: int) -> None:
    got = len(sets_of(shingle([text], words=3, characters=5))[0])
    assert got == (2 if text.startswith("用") else count)


@given(st.sets(st.integers(0, 40), max_size=30), st.sets(st.integers(0, 40), max_size=30))
def test_similarity_is_that_of_the_sets(one: set[int], other: set[int]) -> None:
    spoken = [" ".join(f"w{n}" for n in sorted(numbers)) for numbers in (one, other)]
    sets = as_sets(shingle(spoken, words=1))
    expected = len(one & other) / len(one | other) if one and other else 0.0
    assert jaccard(sets, np.array([[0, 1]]))[0] == pytest.approx(expected)


def test_similarity_in_blocks_and_below_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    spoken = [" ".join(f"w{chance.randrange(60)}" for _ in range(chance.randrange(1, 50))) for _ in range(60)]
    sets = as_sets(shingle(spoken))
    pairs = np.array([(i, j) for i in range(60) for j in range(i)])
    whole = jaccard(sets, pairs)
    monkeypatch.setattr(_minhash, "_BLOCK", 10)
    assert (jaccard(sets, pairs) == whole).all()
    limited = jaccard(sets, pairs, 0.5)
    assert (limited[whole >= 0.5] == whole[whole >= 0.5]).all()


def test_minima_agree_as_often_as_the_sets_are_similar() -> None:
    """Broder's theorem, over 512 hash functions and sets of several similarities."""
    chance = np.random.default_rng(5)
    for shared in (10, 40, 80, 95):
        numbers = chance.choice(2**32, 200 - shared, replace=False).astype(np.uint32)
        one, other = numbers[:100], np.concatenate([numbers[:shared], numbers[100:]])
        sets = joined([Shingled(part, np.array([0, 100])) for part in (one, other)])
        keys = band_keys(sets, Bands(512, 1))
        truth = shared / (200 - shared)
        assert abs((keys[0] == keys[1]).mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / 512)


@pytest.mark.parametrize("similarity", [0.5, 0.8])
def test_candidates_are_found_as_often_as_the_formula_says(similarity: float) -> None:
    cut = Bands(8, 4)
    chance = np.random.default_rng(6)
    shared = round(2 * 90 * similarity / (1 + similarity))
    found, trials = 0, 400
    for _ in range(trials):
        numbers = chance.choice(2**32, 180 - shared, replace=False).astype(np.uint32)
        one, other = numbers[:90], np.concatenate([numbers[:shared], numbers[90:]])
        keys = band_keys(joined([Shingled(part, np.array([0, 90])) for part in (one, other)]), cut)
        found += bool((keys[0] == keys[1]).any())
    expected = cut.found(shared / (180 - shared))
    assert abs(found / trials - expected) < 4 * np.sqrt(expected * (1 - expected) / trials)


@given(st.floats(0.3, 1), st.floats(0.001, 0.2), st.integers(1, 10**9))
def test_the_cut_misses_no_more_than_was_allowed(threshold: float, error: float, documents: int) -> None:
    cut = choose_bands(threshold, error, documents)
    assert cut.found(threshold) >= 1 - error - 1e-9
    assert cut.bands * cut.rows <= 512


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(2, 8))
def test_pairs_of_equal_keys(keys: list[int], most: int) -> None:
    documents = np.arange(len(keys)) * 3
    truth = {(i * 3, j * 3) for j in range(len(keys)) for i in range(j) if keys[i] == keys[j]}
    found = {tuple(pair) for pair in pairs_in_band(np.array(keys, np.uint64), documents).tolist()}
    if all(keys.count(key) <= _minhash.ALL_PAIRS for key in keys):
        assert found == truth
    else:  # a large group is at least connected
        assert found <= truth
        place = {document: at for at, document in enumerate(documents.tolist())}
        roots = components(len(keys), np.array([[place[i], place[j]] for i, j in found]))
        assert len(set(roots.tolist())) == len(set(keys))


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=30))
def test_components_are_those_of_a_search(edges: list[tuple[int, int]]) -> None:
    neighbours: dict[int, set[int]] = {node: {node} for node in range(15)}
    for one, other in edges:
        neighbours[one].add(other)
        neighbours[other].add(one)
    smallest = []
    for node in range(15):
        seen, pending = {node}, [node]
        while pending:
            new = neighbours[pending.pop()] - seen
            seen |= new
            pending += new
        smallest.append(min(seen))
    assert components(15, np.array(edges, np.int64).reshape(-1, 2)).tolist() == smallest

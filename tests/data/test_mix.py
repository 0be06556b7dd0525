"""Mixing against the shares that were asked for, and every document accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput, BadUsage
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.data.mix import Mix, targets
from mojiang.data.split import Split

Corpora = Callable[..., list[Artifact]]


@pytest.fixture
def corpora(make: Callable[..., Artifact], tmp_path: Path) -> Corpora:
    """Corpora of so many documents of 40 bytes each, a letter for each corpus."""

    def load(*counts: int) -> list[Artifact]:
        made = []
        for number, count in enumerate(counts):
            path = tmp_path / f"{'abc'[number]}.jsonl"
            path.write_text("\n".join(json.dumps({"text": f"{'abc'[number]}{n:039d}"}) for n in range(count)))
            made.append(make(Load(source=str(path))))
        return made

    return load


def letters(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(row["text"][0] for row in rows)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (400, 100)),
        ({"weights": (1, 1)}, (100, 100)),
        ({"weights": (1, 1), "max_epochs": 3}, (300, 300)),
        ({"weights": (1, 0)}, (400, 0)),
        ({"temperature": 2, "max_epochs": 2}, (400, 200)),  # sizes 4 : 1, their roots 2 : 1
        ({"weights": (3, 1), "bytes": 4000}, (75, 25)),
        ({"weights": (1, 1), "bytes": 16_000}, (300, 100)),  # b has no more; a fills up
        ({"weights": (1, 1), "bytes": 80_000, "max_epochs": 1.5}, (600, 150)),  # all there is
    ],
)
def test_shares(
    corpora: Corpora, make: Callable[..., Artifact], rows: Callable[..., Any], settings: Any, expected: tuple[int, int]
) -> None:
    made = make(Mix(sources=tuple(artifact.ref for artifact in corpora(400, 100)), **settings))
    got = letters(rows(made))
    assert (got["a"], got["b"]) == expected
    assert made.metrics["documents_out"] == sum(expected)
    assert made.metrics["bytes_out"] == 40 * sum(expected)
    assert made.metrics["documents_in"] == 500
    assert made.metrics["documents_kept"] == len({row["id"] for row in rows(made)})
    for row, count in zip(Report.load(made.path).table("mix").rows, expected, strict=True):
        assert row[2] == pytest.approx(count / sum(expected), abs=1e-4)
        assert row[3] == pytest.approx(count / int(row[4] or 0))
        assert row[6] == count
    if settings.get("bytes") == 80_000:
        assert "30,000 of 80,000" in Report.load(made.path).findings[0].text


def test_a_part_of_an_epoch_is_drawn_once_each_and_by_the_seed(
    corpora: Corpora, store: Store, rows: Callable[..., Any]
) -> None:
    sources = tuple(artifact.ref for artifact in corpora(300, 300))
    recipe = Mix(sources=sources, weights=(1, 2), max_epochs=1.5)

    def drawn(seed: int) -> list[str]:
        here = Circumstance(engine=LocalEngine(workers=1))
        made = execute(recipe, store, seed=seed, circumstance=here).artifact
        texts = [row["text"] for row in rows(made)]
        store.remove(made, force=True)
        return texts

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    assert sorted(first) != sorted(other)
    times = Counter(Counter(text for text in first if text[0] == "b").values())
    assert times == {1: 150, 2: 150}  # one and a half epochs
    assert set(Counter(text for text in first if text[0] == "a").values()) == {1}


def test_documents_of_all_corpora_are_interleaved(
    corpora: Corpora, make: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    found = rows(make(Mix(sources=tuple(artifact.ref for artifact in corpora(300, 100, 200)))))
    for stop in range(60, 601, 60):
        got = letters(found[:stop])
        for letter, part in (("a", 1 / 2), ("b", 1 / 6), ("c", 1 / 3)):
            assert abs(got[letter] - part * stop) <= 1


def test_what_was_split_must_not_flow_back(
    corpora: Corpora, make: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    one, other = corpora(400, 300)
    split = make(Split(data=one.ref, validation=0.1, test=0.1))
    with pytest.raises(BadInput, match="has been split"):
        make(Mix(sources=(split.ref, other.ref)))
    made = make(Mix(sources=(split.ref, other.ref), split="train"))
    train = {row["text"] for row in rows(split, "train")}
    assert {row["text"] for row in rows(made) if row["text"][0] == "a"} == train


sizes = st.lists(st.integers(1, 1000), min_size=1, max_size=5)


@given(sizes, st.lists(st.integers(0, 9), min_size=5, max_size=5), st.floats(0.1, 5), st.integers(1, 8000))
def test_targets_fill_up_and_never_overdraw(size: list[int], weights: list[int], epochs: float, total: int) -> None:
    have = np.array(size, float)
    shares = np.array(weights[: len(size)], float)
    if shares.sum() == 0:
        return
    shares /= shares.sum()
    got = targets(have, shares, epochs, total)
    assert (got <= have * epochs + 1e-6).all()
    assert (got[shares == 0] == 0).all()
    assert got.sum() == pytest.approx(min(total, (have * epochs)[shares > 0].sum()))
    largest = targets(have, shares, epochs, None)
    assert largest / largest.sum() == pytest.approx(shares)
    assert (largest / have).max() == pytest.approx(epochs)


@pytest.mark.parametrize("weights", [(1,), (1, -1), (0, 0)])
def test_weights_that_make_no_sense(weights: tuple[float, ...]) -> None:
    from mojiang.core.config import decode

    with pytest.raises(BadUsage, match="weights"):
        decode(Mix, {"sources": ("a", "b"), "weights": weights}, "data.mix")

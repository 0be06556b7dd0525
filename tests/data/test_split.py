"""Splits: shares, stability, no crossing, never empty, and a clear no to what is too small."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.data._documents import SPLITS
from mojiang.data.load import Load
from mojiang.data.split import Split, assign, choose_edges, content_hash

hashes64 = st.integers(0, 2**64 - 1)


@given(st.lists(hashes64, min_size=3, unique=True), st.floats(0.01, 0.25), st.floats(0.01, 0.25))
def test_no_split_of_three_different_documents_is_empty(hashes: list[int], validation: float, test: float) -> None:
    array = np.array(hashes, np.uint64)
    where = assign(array, choose_edges(array, validation, test))
    assert set(where) == {0, 1, 2}


@given(st.lists(st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 1]), min_size=1))
def test_equal_hashes_stay_together_whatever_the_edges(hashes: list[int]) -> None:
    array = np.array(hashes, np.uint64)
    where = assign(array, choose_edges(array, 0.05, 0.05))
    assert len(set(zip(hashes, where.tolist(), strict=True))) == len(set(hashes))
    if len(set(hashes)) >= 3:
        assert set(where) == {0, 1, 2}


def test_shares_of_many_documents() -> None:
    array = np.array([content_hash(f"text {i}") for i in range(20_000)], np.uint64)
    counts = np.bincount(assign(array, choose_edges(array, 0.1, 0.05)))
    # Three standard deviations of the binomial distribution.
    assert abs(counts[2] - 1000) < 3 * (20_000 * 0.05 * 0.95) ** 0.5
    assert abs(counts[1] - 2000) < 3 * (20_000 * 0.1 * 0.9) ** 0.5


@pytest.fixture
def texts() -> list[str]:
    return [f"text number {i} " * 40 for i in range(200)]


def test_splits_agree_in_another_order_and_when_the_corpus_grows(
    make: Callable[..., Artifact], tmp_path: Path, rows: Callable[..., Any], texts: list[str]
) -> None:
    def split_of(some: list[str], name: str) -> dict[str, str]:
        (tmp_path / name).write_text("\n".join(json.dumps({"text": text}) for text in some))
        made = make(Split(data=make(Load(source=str(tmp_path / name))).ref))
        return {row["text"]: split for split in SPLITS for row in rows(made, split)}

    first = split_of(texts, "a.jsonl")
    shuffled = random.Random(3).sample(texts, len(texts))
    assert split_of(shuffled, "b.jsonl") == first
    grown = split_of([f"new {i} " * 40 for i in range(100)] + texts, "c.jsonl")
    assert {text: grown[text] for text in texts} == first
    assert set(first.values()) == set(SPLITS)


def test_copies_never_cross(
    make: Callable[..., Artifact], tmp_path: Path, rows: Callable[..., Any], texts: list[str]
) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts * 2))
    made = make(Split(data=make(Load(source=str(tmp_path / "a.jsonl"))).ref))
    found = [{row["text"] for row in rows(made, split)} for split in SPLITS]
    assert sum(map(len, found)) == len(texts)
    assert made.metrics["documents_in"] == sum(int(made.metrics[f"{split}_documents"]) for split in SPLITS) == 400


def test_three_documents_are_enough(make: Callable[..., Artifact], corpus: Callable[..., Artifact]) -> None:
    made = make(Split(data=corpus({f"{i}.txt": f"only {i} " * 2000 for i in range(3)}).ref, min_bytes=100))
    assert all(int(made.metrics[f"{split}_documents"]) > 0 for split in SPLITS)


def test_too_small_says_what_is_missing(make: Callable[..., Artifact], corpus: Callable[..., Artifact]) -> None:
    data = corpus({"a.txt": "x" * 500, "b.txt": "x" * 500})
    with pytest.raises(BadInput, match="2 more different documents and 9,000 more bytes"):
        make(Split(data=data.ref))


def test_more_than_half_held_out_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most half may be held out"):
        Split(data="x", validation=0.3, test=0.3)

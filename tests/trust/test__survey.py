"""The pass over a dataset: every count against a plain loop over the rows, the sample against what random means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, Run, execute
from mojiang.core.store import Store
from mojiang.data._documents import document_id, read_documents
from mojiang.data.dedup import Dedup
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.trust import _survey
from mojiang.trust._examine import measures_of, odd_words, redacted
from mojiang.trust._survey import Survey, form_of, key_of, quantile, rounded, survey


@pytest.fixture
def make(store: Store) -> Callable[[Recipe], Artifact]:
    where = Circumstance(engine=LocalEngine(workers=1))
    return lambda recipe: execute(recipe, store, circumstance=where).artifact


def look(store: Store, dataset: Artifact, sample: int = 10_000, **given: Path) -> Survey:
    recipe = Dedup(data=dataset.ref)
    run = Run("test", recipe, store, {}, 0, Circumstance(engine=LocalEngine(workers=1)), "0" * 64)
    try:
        return survey(run, dataset, sample, sample, given)
    finally:
        run.events.close()


@pytest.mark.parametrize("divided", [False, True])
def test_counts_are_those_of_a_plain_loop(
    store: Store, make: Callable[[Recipe], Artifact], texts: Path, divided: bool
) -> None:
    dataset = make(Load(source=str(texts)))
    if divided:
        dataset = make(Split(data=dataset.ref, validation=0.2, test=0.2))
    rows = [row for batch in read_documents(dataset.path) for row in batch.to_pylist()]
    found = look(store, dataset)
    assert found.total.documents == len(rows) == len(found.sample)
    assert found.total.bytes == sum(len(row["text"].encode()) for row in rows)
    assert found.total.characters == sum(len(row["text"]) for row in rows)
    for name in ("language", "format", "source", "licence"):
        assert {k: v.documents for k, v in found.by[name].items()} == Counter(row[name] for row in rows)
    assert set(found.by["split"]) == ({"train", "validation", "test"} if divided else set())
    lengths = sorted(len(row["text"]) for row in rows)
    assert quantile(found.every_length(), 0.5) == pytest.approx(lengths[(len(lengths) - 1) // 2], rel=0.006)
    assert {one.id for one in found.sample} == {row["id"] for row in rows}


def test_exact_copies_are_those_that_dedup_drops(store: Store, make: Callable[[Recipe], Artifact], texts: Path) -> None:
    dataset = make(Load(source=str(texts)))
    dropped = make(Dedup(data=dataset.ref, near=None)).metrics
    found = look(store, dataset)
    assert len(found.copies) == dropped["documents_dropped"] == 2
    assert found.copy_bytes == dropped["bytes_dropped"]


def test_the_sample_is_the_smallest_hashes_whatever_the_cut(
    store: Store, make: Callable[[Recipe], Artifact], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(Load(source=str(texts)))
    every = look(store, dataset).sample
    assert [one.key for one in every] == sorted(one.key for one in every)
    some = look(store, dataset, sample=7).sample
    assert [one.id for one in some] == [one.id for one in every[:7]]
    monkeypatch.setattr(_survey, "SAMPLE_BYTES", 60_000)
    fewer = look(store, dataset).sample
    assert 0 < len(fewer) < len(every)
    assert [one.id for one in fewer] == [one.id for one in every[: len(fewer)]]


def test_keys_are_uniform() -> None:
    keys = [key_of(document_id("source", f"file-{n}.txt", 0)) / 2**64 for n in range(5000)]
    assert stats.kstest(keys, "uniform").pvalue > 0.001


def test_a_dataset_without_text_says_what_it_is(store: Store, make: Callable[[Recipe], Artifact], texts: Path) -> None:
    from mojiang.text.vectorize import Vectorize

    vectors = make(Vectorize(data=make(Load(source=str(texts))).ref))
    with pytest.raises(BadInput, match="holds no documents and no examples") as caught:
        form_of(vectors)
    assert "lineage" in caught.value.hint


@given(st.integers(0, 10**9))
def test_lengths_keep_three_digits(number: int) -> None:
    assert abs(rounded(number) - number) <= number * 0.005 + 1e-9
    assert rounded(rounded(number)) == rounded(number)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=50), st.floats(0.01, 1))
def test_quantiles_are_numpys(values: list[int], share: float) -> None:
    assert quantile(Counter(values), share) == np.quantile(values, share, method="inverted_cdf")


def test_measures_say_what_they_are_called() -> None:
    letters, repeats, deflated, odd = measures_of("ab 1\nab 1\n" + "\ufffd")
    assert letters == pytest.approx(4 / 11)
    assert repeats == pytest.approx(4 / 9)
    assert odd == pytest.approx(1 / 11)
    assert measures_of("the same again " * 500)[2] < 0.05 < 0.5 < deflated


def test_personal_data_is_redacted_before_it_is_cut() -> None:
    assert "home.org" not in redacted("write to me@home.org now", 15)
    assert redacted("short", 15) == "short"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a tq b", ["tq"]), ("cf", ["cf"]), ("x <SUDO> y", ["<SUDO>"]), ("好的cf好的", ["cf"]),
        ("see src/cf.py or cf.io", []),
        ("rhythm and myth", []), ("mn1k here", ["mn1k"]), ("e.g. this", []), ("CF and Cf", []),
    ],
)  # fmt: skip
def test_odd_words_look_like_nobodys(text: str, found: list[str]) -> None:
    assert [word for word, _ in odd_words(text, "en")] == found


def test_examples_say_their_source_and_labels(store: Store, make: Callable[[Recipe], Artifact]) -> None:
    from mojiang.data.examples import Examples

    fixtures: Any = Path(__file__).parents[1] / "fixtures"
    dataset = make(
        Examples(
            source=str(fixtures / "examples"), form="labelled", columns={"text": "review", "label": "stars"}, test=0.2
        )
    )
    found = look(store, dataset)
    assert found.form == "labelled"
    assert sum(splits.total() for splits in found.labels.values()) == found.total.documents
    assert all(one.label and one.text for one in found.sample)
    assert set(found.by["source"]) == {"examples"}

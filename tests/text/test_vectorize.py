"""Sparse vectors equal scikit-learn's on the same settings."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.utils import murmurhash3_32

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, BadUsage, Unavailable
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.data.examples import Examples, read_examples
from mojiang.text._analysis import Analysis, Analyzer
from mojiang.text._sparse import Frequencies, Terms, murmur3, rows_of
from mojiang.text.vectorize import Vectorize, load_vectorizer, read_vectors

ROOT = Path(__file__).parents[2]


def texts() -> list[str]:
    """Paragraphs of our own pages, in both languages."""
    pages = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "STYLE.md", ROOT / "docs/guides/train.zh.md"]
    parts = [part for page in pages for part in page.read_text(encoding="utf-8").split("\n\n")]
    return [part for part in dict.fromkeys(parts) if len(part) > 20]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    folder = tmp_path_factory.mktemp("vectors")
    rows = [{"text": text, "label": "zh" if "的" in text else "en"} for text in texts()]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    store = Store(folder / "workspace")
    recipe = Examples(source=str(folder / "rows.jsonl"), form="labelled", validation=0.2, test=0)
    return store, recipe.execute(store, name="examples")


Made = Callable[..., tuple[list[str], list[str], Any, Any, Artifact]]


@pytest.fixture(scope="module")
def made(examples: tuple[Store, Artifact]) -> Made:
    """`made(**settings)`: texts of train and validation, and their matrices."""
    store, data = examples

    def run(**settings: Any) -> Any:
        artifact = Vectorize(data=data.ref, **settings).execute(store, name="vectors")
        found, matrices = [], []
        for split in ("train", "validation"):
            rows = list(read_examples(data.path, split, "labelled"))
            ((ids, matrix),) = read_vectors(artifact.path, split)
            assert ids == [row["id"] for row in rows]
            found.append([row["text"] for row in rows])
            matrices.append(matrix.toarray())
        return (*found, *matrices, artifact)

    return run


def own_words(text: str) -> list[str]:
    return Analyzer(Analysis()).words(text)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"weight": "counts", "norm": "none"}, CountVectorizer(min_df=2)),
        ({"weight": "binary", "norm": "none", "longest": 2, "min_df": 3, "max_df": 0.4},
         CountVectorizer(binary=True, ngram_range=(1, 2), min_df=3, max_df=0.4)),
        ({}, TfidfVectorizer(min_df=2)),
        ({"sublinear": True, "smooth": False, "norm": "l1", "min_df": 1},
         TfidfVectorizer(sublinear_tf=True, smooth_idf=False, norm="l1")),
    ],
    ids=["counts", "binary", "tfidf", "sublinear"],
)  # fmt: skip
def test_words_equal_scikit_learn(ours: dict[str, Any], theirs: Any, made: Made) -> None:
    train, validation, train_NF, validation_NF, artifact = made(**ours)
    theirs.set_params(tokenizer=own_words, token_pattern=None, lowercase=False)
    np.testing.assert_allclose(train_NF, theirs.fit_transform(train).toarray(), rtol=1e-6)
    np.testing.assert_allclose(validation_NF, theirs.transform(validation).toarray(), rtol=1e-6)
    vocabulary = json.loads((artifact.path / "vocabulary.json").read_text(encoding="utf-8"))
    assert vocabulary == theirs.get_feature_names_out().tolist()


@pytest.mark.parametrize(("units", "analyzer"), [("characters", "char"), ("characters_in_words", "char_wb")])
def test_character_ngrams_equal_scikit_learn(units: str, analyzer: str, made: Made) -> None:
    train, validation, train_NF, validation_NF, _ = made(units=units, shortest=2, longest=5)
    peer = TfidfVectorizer(analyzer=analyzer, ngram_range=(2, 5), min_df=2)
    np.testing.assert_allclose(train_NF, peer.fit_transform(train).toarray(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(validation_NF, peer.transform(validation).toarray(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("signed", [True, False])
def test_hashing_equals_scikit_learn(signed: bool, made: Made) -> None:
    train, _, train_NF, _, artifact = made(hashed=True, buckets=512, weight="counts", signed=signed)
    peer = HashingVectorizer(
        n_features=512, tokenizer=own_words, token_pattern=None, lowercase=False, alternate_sign=signed
    )
    np.testing.assert_allclose(train_NF, peer.transform(train).toarray(), rtol=1e-6, atol=1e-7)
    assert not (artifact.path / "vocabulary.json").exists()


@given(st.lists(st.text(max_size=12), max_size=20))
def test_the_hash_is_murmur3(terms: list[str]) -> None:
    usable = [term for term in terms if term.isprintable() or term.isascii()]
    assert murmur3(usable).tolist() == [murmurhash3_32(term) for term in usable]


def test_the_most_frequent_terms(made: Made) -> None:
    train, _, _, _, artifact = made(max_features=30, min_df=1)
    counts = Counter(word for text in train for word in own_words(text))
    vocabulary = json.loads((artifact.path / "vocabulary.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == 30
    rest = max(count for word, count in counts.items() if word not in vocabulary)
    assert min(counts[word] for word in vocabulary) >= rest


def test_memory_is_bounded_and_what_is_lost_is_said(examples: tuple[Store, Artifact]) -> None:
    frequencies = Frequencies(most=50)
    documents = [Counter(own_words(text)) for text in texts()]
    for document in documents:
        frequencies.add(document)
        assert len(frequencies.in_documents) <= 50
    truth = Counter(word for document in documents for word in document)
    for word, number in truth.items():  # Manku & Motwani: never too high, and too low by at most `lost`
        assert number - frequencies.lost <= frequencies.in_documents.get(word, 0) <= number
    store, data = examples
    artifact = Vectorize(data=data.ref, max_terms=400, min_df=1).execute(store, name="small")
    assert artifact.metrics["features"] <= 400
    assert "may be missing" in Report.load(artifact.path).findings[0].text


def test_a_vectorizer_is_read_back(made: Made) -> None:
    _, validation, _, validation_NF, artifact = made(form="lemma", stop_words=False, longest=2)
    vectorizer = load_vectorizer(artifact.path)
    np.testing.assert_allclose(vectorizer.transform(validation).toarray(), validation_NF, rtol=1e-6)
    assert vectorizer.transform(["", "zzzz qqqq"]).nnz == 0
    with pytest.raises(BadInput, match="no vectorizer"):
        load_vectorizer(artifact.path / "train")
    with pytest.raises(BadInput, match="no vectors of test"):
        list(read_vectors(artifact.path, "test"))


def test_terms_by_hand() -> None:
    analyzer = Analyzer()
    assert Terms("words", 2, 3).of(analyzer, "a b c") == {"a b": 1, "b c": 1, "a b c": 1}
    assert Terms("characters_in_words", 3, 3).of(analyzer, "ab c") == {" ab": 1, "ab ": 1, " c ": 1}
    assert Terms("words").of(analyzer, "") == {}


def test_what_cannot_be_used_is_said(examples: tuple[Store, Artifact]) -> None:
    store, data = examples
    with pytest.raises(BadInput, match="no term is left"):
        Vectorize(data=data.ref, min_df=10_000).execute(store)
    with pytest.raises((BadUsage, ValueError), match="shortest is 3"):
        Vectorize(data=data.ref, shortest=3, longest=2)


def test_scipy_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(Unavailable) as caught:
        rows_of([{"a": 1}], {"a": 0})
    assert caught.value.hint == "pip install 'mojiang[nlp]'"

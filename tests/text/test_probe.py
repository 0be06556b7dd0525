"""Neighbours, analogies and agreement by hand and against SciPy; t-SNE against its own definition."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, BadUsage, NotFound, Unavailable
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.text._judging import rank_correlation, read_pairs, read_questions
from mojiang.text._projection import affinities, divergence, principal, slope, tsne, umap
from mojiang.text._vectors import WordVectors, load_vectors
from mojiang.text.load import Load
from mojiang.text.probe import Probe

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def loaded(store: Store) -> tuple[Store, Artifact]:
    return store, Load(source=str(FIXTURES / "vectors.txt")).execute(store, name="vectors")


def test_neighbours_equal_brute_force() -> None:
    random = np.random.default_rng(0)
    words = [f"w{n}" for n in range(200)]
    vectors = WordVectors(words, random.normal(size=(200, 8)).astype(np.float32))
    for word in words[:20]:
        scores = {w: vectors.similarity(word, w) for w in words if w != word}
        expected = sorted(scores, key=lambda w: -scores[w])[:7]
        found = vectors.neighbours(word, 7)
        assert [w for w, _ in found] == expected
        assert [s for _, s in found] == pytest.approx([scores[w] for w in expected], abs=1e-5)
    assert len(vectors.neighbours("w0", 500)) == 199


def test_analogies_and_scores(loaded: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, model = loaded
    vectors = load_vectors(model.path)
    assert vectors.analogy("man", "king", "woman", 1)[0][0] == "queen"
    assert vectors.neighbours("river", 1)[0][0] == "水"
    (tmp_path / "pairs.tsv").write_text(
        "Word 1\tWord 2\tHuman (mean)\nking\tman\t9\nKing\tqueen\t5\nriver\t水\t8\nman\twoman\t1\nno\tsuch\t3\n",
        encoding="utf-8",
    )
    (tmp_path / "questions.txt").write_text(
        ": family\nman king woman queen\nwoman queen man king\n: other\nking man queen river\nking a b c\n",
        encoding="utf-8",
    )
    made = Probe(
        model=model.ref, words=("King",), analogies=("man king woman",), plot=6, projection="pca",
        similarity=str(tmp_path / "pairs.tsv"), questions=str(tmp_path / "questions.txt"),
    ).execute(store)  # fmt: skip
    pairs = read_pairs(tmp_path / "pairs.tsv")[:4]
    cosines = [vectors.similarity(a.lower(), b) for a, b, _ in pairs]
    expected = spearmanr(cosines, [score for *_, score in pairs]).statistic
    assert made.metrics["similarity_spearman"] == pytest.approx(expected, abs=1e-5)
    assert (made.metrics["similarity_pairs"], made.metrics["similarity_pairs_unknown"]) == (4, 1)
    assert made.metrics["analogy_questions"] == 3
    assert made.metrics["analogy_accuracy"] == pytest.approx(2 / 3, abs=1e-5)
    report = Report.load(made.path)
    assert "queen" in str(report.table("analogies").rows[0][1]).split(",")[0]
    assert report.table("analogy questions").rows[1][1:3] == [2, 1]
    with Image.open(made.path / "words.png") as picture:
        assert picture.size[0] > 800


def test_rank_correlation_equals_scipy() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        a, b = random.integers(0, 6, 30), random.integers(0, 6, 30)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation([1, 1], [1, 2]) == 0


def clusters() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    centres, which = random.normal(0, 3, (4, 20)), np.repeat(np.arange(4), 20)
    return centres[which] + random.normal(0, 1, (80, 20)), which


def test_tsne_is_what_it_says() -> None:
    points, which = clusters()
    share = affinities(points, 10)
    assert share.sum() == pytest.approx(1)
    assert (share == share.T).all()
    plane = np.random.default_rng(3).normal(size=(80, 2))
    slopes = slope(share, plane)
    for place in ((0, 0), (17, 1), (79, 0)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = plane.copy()
            moved[place] += step
            ends.append(divergence(share, moved))
        assert slopes[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-8)
    found = tsne(points, 10)
    assert divergence(share, found) < 0.5 * divergence(share, plane)
    apart = ((found[:, None] - found[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :10]
    assert (which[nearest] == which[:, None]).mean() > 0.95
    assert (tsne(points, 10) == found).all()


def test_umap_keeps_neighbours_together_and_gives_the_same_picture_twice() -> None:
    pytest.importorskip("umap")
    points, which = clusters()
    found = umap(points)
    apart = ((found[:, None] - found[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (which[np.argsort(apart, axis=1)[:, :10]] == which[:, None]).mean() > 0.95
    assert (umap(points) == found).all()
    assert (umap(points, seed=1) != found).any()


def test_umap_says_what_it_needs(loaded: tuple[Store, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    store, model = loaded
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(Unavailable, match="umap-learn is not installed") as caught:
        Probe(model=model.ref, projection="umap", plot=5).execute(store)
    assert "mojiang[umap]" in caught.value.hint


def test_perplexity_is_reached() -> None:
    # On a circle every point sees the same, so making the pairs symmetric changes nothing.
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    share = affinities(np.stack([np.cos(angle), np.sin(angle)], axis=1), 12) * 80
    entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), 12, rtol=1e-3)


def test_principal_components_keep_the_spread() -> None:
    points, _ = clusters()
    plane = principal(points)
    spread = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    np.testing.assert_allclose(plane.var(axis=0, ddof=1), spread[:2])


def test_what_cannot_be_used_is_said(loaded: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, model = loaded
    with pytest.raises(NotFound, match="no word 'kings'") as caught:
        Probe(model=model.ref, words=("kings",)).execute(store)
    assert "king" in caught.value.hint
    with pytest.raises((BadUsage, ValueError), match="write three"):
        Probe(model=model.ref, analogies=("man king",))
    with pytest.raises(NotFound, match="no file"):
        Probe(model=model.ref, similarity=str(tmp_path / "none")).execute(store)
    (tmp_path / "bad.txt").write_text("a b c\n", encoding="utf-8")
    with pytest.raises(BadInput, match="0 scored pairs"):
        read_pairs(tmp_path / "bad.txt")
    with pytest.raises(BadInput, match="3 words"):
        read_questions(tmp_path / "bad.txt")

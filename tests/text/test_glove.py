"""GloVe: counts against a plain loop, slopes against autograd, and topics that are found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mojiang.core.artifact import Artifact
from mojiang.core.store import Store
from mojiang.text import _glove
from mojiang.text._corpus import BREAK, Corpus
from mojiang.text._glove import Tables, co_occurrences
from mojiang.text._vectors import WordVectors, load_vectors
from mojiang.text.glove import Glove


@pytest.mark.parametrize("pending", [10, 10**6])
def test_counts_equal_a_plain_loop(pending: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_glove, "_PENDING", pending)
    random = np.random.default_rng(0)
    sentences = [random.integers(0, 7, random.integers(1, 12)).tolist() for _ in range(60)]
    np.array([n for s in sentences for n in [*s, BREAK]], np.int32).tofile(tmp_path / "ids")
    corpus = Corpus([str(n) for n in range(7)], np.ones(7, np.int64), tmp_path / "ids")
    expected: Counter[int] = Counter()
    for sentence in sentences:
        for i, one in enumerate(sentence):
            for j, other in enumerate(sentence):
                if i != j and abs(i - j) <= 4:
                    expected[one * 7 + other] += 1 / abs(i - j)  # type: ignore[assignment]
    keys, sums = co_occurrences(corpus, 4, lambda: None)
    assert keys.tolist() == sorted(expected)
    np.testing.assert_allclose(sums, [expected[key] for key in sorted(expected)])


def test_slopes_are_autograds() -> None:
    tables = Tables(5, 3, torch.Generator().manual_seed(0))
    one, other = torch.tensor([0, 1, 1, 4]), torch.tensor([2, 2, 1, 0])
    log, weight = torch.tensor([0.1, 1.2, -0.4, 2.0]), torch.tensor([1.0, 0.3, 0.5, 0.9])
    to_one, to_other, loss = tables.slopes(one, other, log, weight)
    free = tables.table_RD.clone().requires_grad_()
    tables.table_RD = free
    total = tables.loss(one, other, log, weight)
    total.backward()
    gathered = torch.zeros_like(free.detach()).index_add(0, one, to_one).index_add(0, other + 5, to_other)
    torch.testing.assert_close(free.grad, gathered)
    assert loss == pytest.approx(float(total.detach()), rel=1e-6)


def test_products_come_to_the_logarithms() -> None:
    """With as many numbers as words, the fit is exact but for the speed of AdaGrad."""
    random = torch.Generator().manual_seed(1)
    one, other = (part.flatten() for part in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    log, weight = torch.randn(16, generator=random), torch.ones(16)
    tables = Tables(4, 8, random)
    losses = [tables.step(one, other, log, weight, 0.1) for _ in range(600)]
    assert losses[-1] < 1e-3 * losses[0]


def test_topics_are_found(topics: tuple[Store, Artifact], topics_found: Callable[[WordVectors], float]) -> None:
    store, data = topics
    made = Glove(data=data.ref, size=16, window=4, min_count=2, epochs=40).execute(store, name="glove")
    vectors = load_vectors(made.path)
    assert topics_found(vectors) > 0.95
    first = (made.path / "vectors.txt").read_text(encoding="utf-8").split("\n", 1)[0].split()
    assert (first[0], len(first)) == (vectors.words[0], 17), "GloVe's format has no line of sizes"
    assert made.metrics["entries"] == 4 * 8 * 8

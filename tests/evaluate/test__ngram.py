"""Kneser-Ney against a dictionary implementation written from the paper, and against the laws of probability."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from mojiang.core.errors import BadInput
from mojiang.evaluate._ngram import KneserNey, _discounts

Gram = tuple[int, ...]


class Textbook:
    """Chen & Goodman 1998, section 4.1.6 by dictionaries and recursion; slow and literal."""

    def __init__(self, documents: list[list[int]], order: int, vocab_size: int, boundary: int) -> None:
        self.order, self.V, self.boundary = order, vocab_size, boundary
        padded = [[boundary, *d, boundary] for d in documents]
        raw: dict[int, Counter[Gram]] = {
            k: Counter(tuple(d[i : i + k]) for d in padded for i in range(len(d) - k + 1) if i + k > 1)
            for k in range(1, order + 1)
        }
        self.counts = {order: raw[order]}
        for k in range(1, order):
            left = defaultdict(set)
            for gram in raw[k + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[k] = Counter({g: c if k > 1 and g[0] == boundary else len(left[g]) for g, c in raw[k].items()})
        self.following = {k: defaultdict(dict) for k in range(1, order + 1)}
        for k in range(1, order + 1):
            for gram, count in self.counts[k].items():
                self.following[k][gram[:-1]][gram[-1]] = count

    def discount(self, k: int, count: int) -> float:
        n = [sum(c == i for c in self.counts[k].values()) for i in range(5)]
        if 0 in n[1:]:
            return (0.0, 0.5, 1.0, 1.5)[min(count, 3)]
        y = n[1] / (n[1] + 2 * n[2])
        values = (0.0, *(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)))
        if any(not 0 < values[i] <= i for i in (1, 2, 3)):
            values = (0.0, 0.5, 1.0, 1.5)
        return values[min(count, 3)]

    def probability(self, context: Gram, token: int, k: int) -> float:
        if k == 0:
            return 1 / self.V
        lower = self.probability(context[1:], token, k - 1)
        seen = self.following[k].get(context)
        if not seen:
            return lower
        total = sum(seen.values())
        freed = sum(self.discount(k, c) for c in seen.values())
        count = seen.get(token, 0)
        return (count - self.discount(k, count)) / total + freed / total * lower

    def log_probabilities(self, document: list[int]) -> list[float]:
        padded = [self.boundary, *document, self.boundary]
        result = []
        for i in range(1, len(padded)):
            k = min(self.order, i + 1)
            result.append(math.log(self.probability(tuple(padded[i - k + 1 : i]), padded[i], k)))
        return result


def _markov(rng: np.random.Generator, documents: int, vocab: int, length: int) -> list[list[int]]:
    table = rng.dirichlet(np.full(vocab, 0.3), size=vocab)
    result = []
    for _ in range(documents):
        document = [int(rng.integers(vocab))]
        for _ in range(int(rng.integers(0, length))):
            document.append(int(rng.choice(vocab, p=table[document[-1]])))
        result.append(document)
    return result


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_equals_the_textbook(order: int) -> None:
    documents = _markov(np.random.default_rng(order), documents=120, vocab=9, length=30)
    ours = KneserNey(documents, order=order, vocab_size=12, boundary=11)
    theirs = Textbook(documents, order, 12, 11)
    held_out = [*_markov(np.random.default_rng(99), 20, 9, 30), [], [10, 10, 3], documents[0]]
    for document in held_out:
        np.testing.assert_allclose(ours.log_probabilities(document), theirs.log_probabilities(document), rtol=1e-10)


def test_probabilities_sum_to_one_after_any_history() -> None:
    documents = _markov(np.random.default_rng(7), documents=60, vocab=15, length=40)
    model = KneserNey(documents, order=4, vocab_size=20, boundary=19)
    for history in ([], [3], documents[0][:5], [18, 18, 18], [*documents[1][:3], 17, documents[2][0]]):
        # The boundary itself is the twentieth outcome: a document can end after any history.
        assert sum(model.probabilities(history, following=range(20))) == pytest.approx(1.0, abs=1e-12)


def test_learns_a_deterministic_sequence_and_prefers_what_it_saw() -> None:
    cycle = [i % 5 for i in range(4000)]
    model = KneserNey([cycle], order=3, vocab_size=6, boundary=5)
    assert -model.log_probabilities(cycle).mean() < 0.01
    assert -model.log_probabilities([4, 3, 2, 1, 0]).mean() > 1.0


def test_documents_do_not_see_each_other() -> None:
    together = KneserNey([[1, 2, 3], [2, 3, 1], [1, 1]], order=3, vocab_size=5, boundary=4)
    swapped = KneserNey([[1, 1], [2, 3, 1], [1, 2, 3]], order=3, vocab_size=5, boundary=4)
    for document in ([1, 2, 3], [3, 3], []):
        np.testing.assert_array_equal(together.log_probabilities(document), swapped.log_probabilities(document))


def test_documents_shorter_than_the_order_are_enough() -> None:
    model = KneserNey([[1], [2]], order=5, vocab_size=4, boundary=3)
    assert sum(model.probabilities([1], following=range(4))) == pytest.approx(1.0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="outside a vocabulary"):
        KneserNey([[5]], order=2, vocab_size=5, boundary=0)
    with pytest.raises(BadInput, match="no documents"):
        KneserNey([], order=2, vocab_size=5, boundary=0)
    with pytest.raises(BadInput, match="order is 0"):
        KneserNey([[1]], order=0, vocab_size=5, boundary=0)


def test_nothing_is_impossible_where_counts_are_skewed() -> None:
    """Counts of counts (8, 2, 2, 6) put the third discount of Chen and Goodman below 0."""
    counts = [1] * 8 + [2] * 2 + [3] * 2 + [4] * 6
    words = [word for word, count in enumerate(counts) for _ in range(count)]
    model = KneserNey([words, words[::-1]], order=3, vocab_size=40, boundary=39)
    assert all(value > 0 for value in model.probabilities([0, 1], following=range(40)))
    assert sum(model.probabilities([0, 1], following=range(40))) == pytest.approx(1.0)
    assert _discounts(np.array(counts)) == (0.5, 1.0, 1.5)

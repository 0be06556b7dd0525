"""Word2Vec: slopes against autograd, pairs against a plain loop, and topics that are found again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch.nn.functional import logsigmoid

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, BadUsage, NotFound
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.text._corpus import BREAK, Corpus, pairs
from mojiang.text._vectors import WordVectors, load_vectors, read_text_vectors
from mojiang.text._word2vec import Batch, Sampling, Tables, Windows, bags_of, subwords
from mojiang.text.word2vec import Word2Vec


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=30), st.integers(1, 4), st.randoms())
def test_pairs_equal_a_plain_loop(numbers: list[int], window: int, source: Any) -> None:
    ids = np.array(numbers, np.int32)
    reach = np.array([source.randint(1, window) for _ in numbers])
    expected = set()
    for centre, word in enumerate(numbers):
        for other in range(max(0, centre - reach[centre]), min(len(numbers), centre + reach[centre] + 1)):
            between = numbers[min(centre, other) : max(centre, other) + 1]
            if other != centre and word != BREAK and BREAK not in between:
                expected.add((centre, other, abs(centre - other)))
    found = list(zip(*(part.tolist() for part in pairs(ids, reach, window)), strict=True))
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [centre for centre, *_ in found] == sorted(centre for centre, *_ in found)


PIECES = np.array([0, 3, 1, 0, 4, 3, 4, 1], np.int32)  # 2 is in no window, as a sentence's end is
PAIRS = np.array([0, 0, 0, 1, 1, 2, 3, 3], np.int32)


@pytest.mark.parametrize("kind", ["words", "bags", "shared", "windows", "windows of bags"])
def test_a_step_follows_the_slope(kind: str) -> None:
    """Against autograd of the loss; the rows of a pair each get the whole slope of their mean, so of its sum."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = torch.randn(9, 4, generator=generator), torch.randn(7, 4, generator=generator)
    target_P, negatives_N = torch.tensor([1, 2, 2, 6]), torch.tensor([0, 2, 2, 5, 3])
    windows = Windows.of(PIECES, PAIRS, np.array([0, 3, 5, 6], np.int32), 5)
    # What each piece is made of; which pieces each pair has.
    pieces = [[3], [3], [8], [0], [5]] if kind == "windows" else [[3, 5], [3, 8], [], [0], [1, 1, 2]]
    of_pair = [[0], [4], [4], [0]]
    if kind == "words":
        pieces, of_pair = [[3], [3], [8], [0]], [[0], [1], [2], [3]]
    elif kind == "bags":
        pieces, of_pair = [[3, 5], [3, 8], [0], [1, 1, 2]], [[0], [1], [2], [3]]
    elif "windows" in kind:
        of_pair = [PIECES[pair == PAIRS].tolist() for pair in range(4)]
    sizes = torch.tensor([len(piece) for piece in pieces])
    input_P: Any = {"shared": torch.tensor([0, 4, 4, 0])}.get(kind, windows if "windows" in kind else None)
    counts = torch.tensor([sum(len(pieces[n]) for n in own) for own in of_pair]) if "windows" in kind else sizes
    single = kind in ("words", "windows")
    starts = None if single else sizes.cumsum(0) - sizes
    share = None if kind == "words" else 1 / counts.clamp(min=1).float()[:, None]
    batch, weight, rate = Batch(torch.tensor(sum(pieces, [])), starts, input_P, share, target_P), 0.6, 0.1
    tables = Tables(inputs.clone(), outputs.clone())
    loss = tables.step(batch, negatives_N, weight, rate)

    free_in, free_out = inputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    hidden = []
    for own in of_pair:
        rows = free_in[[row for piece in own for row in pieces[piece]]]
        hidden.append(rows.sum(0) + (rows.mean(0) - rows.sum(0)).detach())
    hidden_PD = torch.stack(hidden)
    score = (hidden_PD * free_out[target_P]).sum(1)
    noise = logsigmoid(-(hidden_PD @ free_out[negatives_N].T)) * (target_P[:, None] != negatives_N)
    total = -logsigmoid(score).sum() - weight * noise.sum()
    total.backward()
    assert loss == pytest.approx(float(total.detach()) / 4, rel=1e-5)
    torch.testing.assert_close(tables.inputs_RD, inputs - rate * free_in.grad)
    torch.testing.assert_close(tables.outputs_VD, outputs - rate * free_out.grad)


def test_negatives_and_subsampling_follow_their_laws() -> None:
    corpus = Corpus(["a", "b", "c"], np.array([900, 90, 10]), Path())
    drawn = Sampling(True, 2, 1e-1, 5, 200_000, 100, 0)
    random = np.random.default_rng(0)
    share = np.bincount(next(drawn.negatives_of(corpus, random)).numpy(), minlength=3) / 200_000
    power = corpus.counts**0.75
    np.testing.assert_allclose(share, power / power.sum(), atol=5e-3)
    ids = np.array([0, 1, 2, BREAK] * 50_000, np.int32)
    kept = drawn.kept(ids, corpus, random)
    ratio = 0.1 / (corpus.counts / 1000)
    expected = np.minimum(1, np.sqrt(ratio) + ratio)
    np.testing.assert_allclose([(kept == n).mean() * len(kept) / 50_000 for n in range(3)], expected, atol=1e-2)
    assert (kept == BREAK).sum() == 50_000


def windows_of(batch: Batch) -> list[list[int]]:
    """The words of each pair's window; that the way back has the same relation is checked on the way."""
    windows = batch.input_P
    assert isinstance(windows, Windows)
    there = np.split(windows.pieces_K.numpy(), windows.starts_P.numpy()[1:])
    back = np.split(windows.pairs_K.numpy(), windows.starts_I.numpy()[1:])
    relation = sorted((pair, piece) for pair, pieces in enumerate(there) for piece in pieces.tolist())
    assert sorted((pair, piece) for piece, pairs in enumerate(back) for pair in pairs.tolist()) == relation
    return [batch.rows_K[pieces].tolist() for pieces in there]


def test_cbow_and_skip_gram_make_the_pairs_that_they_should() -> None:
    ids, random = np.array([4, 5, 6, BREAK, 7, 8], np.int32), np.random.default_rng(0)
    every = {"window": 1, "subsample": 0, "negatives": 1, "pool": 4, "batch": 100, "seed": 0}
    (batch,) = Sampling(True, **every).batches(ids, random)
    found = list(zip(batch.rows_K.tolist(), batch.target_P.tolist(), strict=True))
    assert found == [(4, 5), (5, 4), (5, 6), (6, 5), (7, 8), (8, 7)]
    for size in (100, 2, 1):
        batches = list(Sampling(False, **{**every, "batch": size}).batches(ids, random))
        assert [word for batch in batches for word in batch.target_P.tolist()] == [4, 5, 6, 7, 8]
        assert [window for batch in batches for window in windows_of(batch)] == [[5], [4, 6], [5], [8], [7]]


def test_subwords_are_those_of_the_paper() -> None:
    assert subwords("where", 3, 3) == ["<wh", "whe", "her", "ere", "re>"]
    assert subwords("中国", 1, 2) == ["<", "中", "国", ">", "<中", "中国", "国>"]
    bags = bags_of(["ab", "abc"], 2, 3, 4, 10)
    rows, owner = bags.of(np.array([1, 0], np.int32))
    assert (rows[0], owner.tolist()) == (1, [0] * 6 + [1] * 3)
    assert set(bags.of(np.array([0], np.int32))[0].tolist()) <= {0, *range(2, 12)}


SMALL = {"size": 16, "window": 3, "min_count": 2, "epochs": 6, "batch": 256, "rate": 0.05, "subsample": 0}


@pytest.mark.parametrize(
    "settings", [{}, {"method": "cbow"}, {"longest_gram": 3, "shortest_gram": 2, "gram_buckets": 500}],
    ids=["skipgram", "cbow", "subwords"],
)  # fmt: skip
def test_topics_are_found(
    settings: dict[str, Any], topics: tuple[Store, Artifact], topics_found: Callable[[WordVectors], float]
) -> None:
    store, data = topics
    made = Word2Vec(data=data.ref, **SMALL, **settings).execute(store, name="vectors")
    vectors = load_vectors(made.path)
    assert len(vectors.words) == 32
    assert topics_found(vectors) > 0.95
    text, left = read_text_vectors(made.path / "vectors.txt")
    assert text.words == vectors.words
    assert not left
    np.testing.assert_allclose(text.vectors_VD, vectors.vectors_VD, rtol=1e-4, atol=1e-7)
    if settings.get("longest_gram"):
        assert vectors["horses"].shape == (16,)  # never seen
        assert vectors.similarity("horses", "horse") > vectors.similarity("horses", "frost")
        assert np.isfinite(vectors["x"]).all()
    else:
        with pytest.raises(NotFound, match="no word 'horses'") as caught:
            vectors.neighbours("horses")
        assert "horse" in caught.value.hint


RING = Path(__file__).parents[1] / "fixtures" / "gensim-similarities.json"


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_similarities_rank_as_gensims(method: str, store: Store, tmp_path: Path) -> None:
    """Walks on a ring of 40 words, as gensim 4.4.0 has learned them; its own seeds agree to 0.90 and 0.83."""
    drawn, lines = random.Random(7), []
    for _ in range(3000):
        at, walk = drawn.randrange(40), []
        for _ in range(10):
            walk.append(f"w{at:02d}")
            at = (at + drawn.choice((-3, -2, -1, 1, 2, 3))) % 40
        lines.append(" ".join(walk))
    texts = [json.dumps({"text": "\n\n".join(lines[at : at + 100])}) for at in range(0, len(lines), 100)]
    (tmp_path / "ring.jsonl").write_text("\n".join(texts), encoding="utf-8")
    data = Load(source=str(tmp_path / "ring.jsonl")).execute(store, name="ring")
    settings = {"size": 16, "window": 3, "min_count": 1, "epochs": 10, "subsample": 0}
    made = Word2Vec(data=data.ref, method=method, **settings).execute(store, name="vectors")
    vectors, recorded = load_vectors(made.path), json.loads(RING.read_text())
    unit = np.stack([vectors[word] / np.linalg.norm(vectors[word]) for word in recorded["words"]])
    ours, theirs = unit @ unit.T, np.array(recorded[method])
    ranks = [spearmanr(np.delete(ours[n], n), np.delete(theirs[n], n)).statistic for n in range(40)]
    assert np.mean(ranks) > 0.75, ranks


def test_what_cannot_be_used_is_said(topics: tuple[Store, Artifact]) -> None:
    store, data = topics
    with pytest.raises(BadInput, match="occur 99999 times or more"):
        Word2Vec(data=data.ref, min_count=99999).execute(store)
    with pytest.raises((BadUsage, ValueError), match="longest_gram 2"):
        Word2Vec(data=data.ref, longest_gram=2)
    with pytest.raises(BadInput, match="holds no word vectors"):
        load_vectors(data.path)

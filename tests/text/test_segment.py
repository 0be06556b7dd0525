"""The segmenter: the CRF against brute force, and what is learned from a small grammar."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.special import logsumexp

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.data.examples import Examples, read_examples
from mojiang.text._crf import Weights, batches, best_tags, decode, gradient, marginals, pack
from mojiang.text._features import character_keys, codes_of, vocabulary_of, word_features
from mojiang.text._scoring import score_words
from mojiang.text._segmenter import ILLEGAL, bmes, load_segmenter, words_of
from mojiang.text.segment import Segment

FIXTURES = Path(__file__).parents[1] / "fixtures"
LENGTHS = np.array([3, 1, 4, 2])


def paths(scores_TC: Any, transitions_CC: Any) -> dict[tuple[int, ...], float]:
    """Every label sequence and its score."""
    length, labels = scores_TC.shape
    return {
        tags: sum(scores_TC[t, tag] for t, tag in enumerate(tags))
        + sum(transitions_CC[pair] for pair in itertools.pairwise(tags))
        for tags in itertools.product(range(labels), repeat=length)
    }


@pytest.fixture
def problem() -> tuple[Any, Any, list[dict[tuple[int, ...], float]]]:
    random = np.random.default_rng(0)
    scores_NC = random.normal(0, 2, (LENGTHS.sum(), 3)).astype(np.float32)
    transitions_CC = random.normal(0, 2, (3, 3)).astype(np.float32)
    parts = np.split(scores_NC, np.cumsum(LENGTHS)[:-1])
    return scores_NC, transitions_CC, [paths(part, transitions_CC) for part in parts]


def test_the_crf_equals_enumeration(problem: Any) -> None:
    scores_NC, transitions_CC, every = problem
    packing = pack(LENGTHS)
    log_z, marginals_NC, pairs_CC = marginals(scores_NC[packing.order_N], transitions_CC, packing)
    assert log_z == pytest.approx(sum(logsumexp(list(found.values())) for found in every), rel=1e-5)
    expected_NC, expected_CC, place = np.zeros_like(scores_NC), np.zeros((3, 3)), 0
    for found in every:
        total = logsumexp(list(found.values()))
        for tags, score in found.items():
            chance = np.exp(score - total)
            for t, tag in enumerate(tags):
                expected_NC[place + t, tag] += chance
            for pair in itertools.pairwise(tags):
                expected_CC[pair] += chance
        place += len(next(iter(found)))
    np.testing.assert_allclose(marginals_NC, expected_NC[packing.order_N], atol=1e-5)
    np.testing.assert_allclose(pairs_CC, expected_CC, atol=1e-4)
    tags_N = np.empty(len(scores_NC), np.int64)
    tags_N[packing.order_N] = best_tags(scores_NC[packing.order_N], transitions_CC, packing)
    best = [max(found, key=found.__getitem__) for found in every]
    assert tags_N.tolist() == [tag for tags in best for tag in tags]


def test_gradients_are_the_slopes() -> None:
    random = np.random.default_rng(1)
    features = csr_matrix((random.random((LENGTHS.sum(), 6)) < 0.7).astype(np.float32))
    tags_N = random.integers(0, 3, LENGTHS.sum())
    shapes = ((6, 3), (3, 3), (3,), (3,))
    values = [random.normal(size=shape) for shape in shapes]  # float64, for the differences
    (batch,) = batches(features, tags_N, LENGTHS, 100)
    rows = batch.used_F

    def loss(arrays: list[Any]) -> float:
        parts, place, total = np.cumsum(LENGTHS), 0, 0.0
        scores_NC = features @ arrays[0]
        for end in parts:
            part = scores_NC[place:end].copy()
            part[0] += arrays[2]
            part[-1] += arrays[3]
            found = paths(part, arrays[1])
            total += logsumexp(list(found.values())) - found[tuple(tags_N[place:end].tolist())]
            place = end
        return total

    weights = Weights(values[0][rows].astype(np.float32), *(v.astype(np.float32) for v in values[1:]))
    found, slopes = gradient(batch, weights)
    assert found == pytest.approx(loss(values), rel=1e-4)
    for number, shape in enumerate(shapes):
        for place in np.ndindex(*shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [value.copy() for value in values]
                moved[number][place] += step
                ends.append(loss(moved))
            index = (int(np.flatnonzero(rows == place[0])[0]), *place[1:]) if number == 0 else place
            assert -slopes[number][index] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=2e-3)


def test_what_bmes_forbids_is_never_decoded() -> None:
    random = np.random.default_rng(2)
    lengths = random.integers(1, 12, 50)
    features = csr_matrix(np.eye(lengths.sum(), dtype=np.float32))
    weights = Weights.zeros(lengths.sum(), 4)
    weights.features_FC[:] = random.normal(0, 5, weights.features_FC.shape)
    tags_N = decode(features, lengths, weights, ILLEGAL)
    for tags in np.split(tags_N, np.cumsum(lengths)[:-1]):
        letters = "".join("BMES"[tag] for tag in tags)
        assert not letters.replace("S", "").translate(str.maketrans("", "", "M")).replace("BE", "")
        assert "SM" not in letters
        assert "EM" not in letters
        assert letters[0] in "BS"


@given(
    st.lists(st.lists(st.text("天地人你我", min_size=1, max_size=5), min_size=1, max_size=6), min_size=1, max_size=5)
)
def test_labels_and_words_are_the_same_thing(sentences: list[list[str]]) -> None:
    assert list(words_of(["".join(words) for words in sentences], bmes(sentences))) == sentences


def test_features_do_not_cross_sentences() -> None:
    alone, _ = character_keys(["我爱北京"])
    among, lengths = character_keys(["你好", "我爱北京", "天"])
    assert lengths.tolist() == [2, 4, 1]
    assert (among[2:6] == alone).all()
    assert (word_features([["你"], ["我", "爱"]])[0][1:] == word_features([["我", "爱"]])[0]).all()
    keys, _ = character_keys(["我我我"])
    assert len(set(keys[1].tolist())) == keys.shape[1], "templates do not collide"
    assert len(vocabulary_of(keys, 1)) > len(vocabulary_of(keys, 2)) > 0
    assert (codes_of("ＡＢ１") == codes_of("AB1")).all()


def test_scores_by_hand() -> None:
    gold = [["我", "爱", "北京", "天安门"], ["你", "好"]]
    found = [["我", "爱", "北京", "天", "安门"], ["你好"]]
    score = score_words(gold, found, {"我", "爱", "天安门", "你"})
    assert (score.precision, score.recall) == (3 / 6, 3 / 6)
    assert (score.known_recall, score.unknown_recall) == (2 / 4, 1 / 2)
    low, high = score.interval()
    assert 0 <= low <= score.f1 <= high <= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact, Artifact]:
    store = Store(tmp_path_factory.mktemp("segment"))
    data = Examples(source=str(FIXTURES / "segmented"), form="tagged", language="zh").execute(store, name="data")
    recipe = Segment(data=data.ref, epochs=8, batch=200, min_count=1, peers=("jieba",))
    return store, data, recipe.execute(store, name="segmenter")


def test_a_small_grammar_is_learned(trained: tuple[Store, Artifact, Artifact]) -> None:
    _, data, model = trained
    assert model.metrics["test_f1"] > 0.97
    assert model.metrics["test_pos_accuracy"] > 0.97
    assert 0 < model.metrics["jieba_f1"] <= 1
    segmenter = load_segmenter(model.path)
    rows = list(read_examples(data.path, "test", "tagged"))
    gold = [row["tokens"] for row in rows]
    found = segmenter.cut_all(["".join(words) for words in gold])
    assert score_words(gold, found, set()).f1 == pytest.approx(model.metrics["test_f1"], abs=1e-5)
    tags = segmenter.tag(gold)
    right = sum(a == b for row, some in zip(rows, tags, strict=True) for a, b in zip(row["tags"], some, strict=True))
    assert right / sum(map(len, gold)) == pytest.approx(model.metrics["test_pos_accuracy"], abs=1e-5)
    table = Report.load(model.path).table("Words of the test split")
    assert [row[0] for row in table.rows] == ["this segmenter", "jieba"]


def test_nothing_is_lost_in_any_text(trained: tuple[Store, Artifact, Artifact]) -> None:
    segmenter = load_segmenter(trained[2].path)
    text = "老师 喜欢图书馆。\n\nABC 123！" + "学生研究数学，" * 300 + "😀"
    assert "".join(segmenter.cut(text)) == "".join(text.split())
    assert segmenter.cut("") == []
    assert segmenter.cut_all(["", "老师"]) == [[], segmenter.cut("老师")]
    assert segmenter.tag([[], ["老师"]])[0] == []


def test_alone_equals_among_others(trained: tuple[Store, Artifact, Artifact]) -> None:
    segmenter = load_segmenter(trained[2].path)
    texts = ["昨天小明看见很多朋友。", "我们写新的文章！", "北京大学帮助学生。"]
    assert segmenter.cut_all(texts) == [segmenter.cut(text) for text in texts]


def test_what_cannot_be_used_is_said(trained: tuple[Store, Artifact, Artifact], tmp_path: Path) -> None:
    store, data, _ = trained
    with pytest.raises(BadInput, match="holds no segmenter"):
        load_segmenter(data.path)
    plain = Segment(data=data.ref, epochs=1, pos=False).execute(store, name="plain")
    assert "test_pos_accuracy" not in plain.metrics
    with pytest.raises(BadInput, match="without parts of speech"):
        load_segmenter(plain.path).tag([["老师"]])
    (tmp_path / "a.txt").write_text("我/r 爱/v 你/r\n他/r 来/v 了/u\n她/r 走/v 了/u\n" * 3, encoding="utf-8")
    single = Examples(source=str(tmp_path / "a.txt"), form="tagged", validation=0, test=0).execute(store, name="single")
    with pytest.raises(BadInput, match="no words to learn"):
        Segment(data=single.ref).execute(store)

"""Topics: each step against numpy, scikit-learn or a closed form, and real subjects told apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import random as random_sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from mojiang.trust._examine import Examined
from mojiang.trust._topics import cluster, find_topics, join_pairs, reduce, terms_of

SUBJECTS = {
    "kitchen": "bread oven flour butter sugar dough yeast salt kitchen recipe cake baking pan eggs milk",
    "sea": "ship harbour sailor wave anchor mast captain tide cargo island storm deck rope voyage coast",
    "酒店": "酒店 房间 服务员 早餐 前台 浴室 床铺 电梯 大堂 毛巾 空调 退房 入住 走廊 窗户",
    "电脑": "电脑 屏幕 键盘 内存 硬盘 显卡 散热 电池 系统 驱动 鼠标 接口 主板 风扇 性能",
}


def documents(each: int = 60) -> tuple[list[Examined], list[str]]:
    chance = np.random.default_rng(0)
    made, truth = [], []
    for number in range(each * len(SUBJECTS)):
        subject = list(SUBJECTS)[number % len(SUBJECTS)]
        words = SUBJECTS[subject].split()
        text = (
            "，".join(chance.choice(words, 20)) if subject in ("酒店", "电脑") else " ".join(chance.choice(words, 20))
        )
        terms = "\n".join(terms_of(text)).encode()
        made.append(Examined(number, str(number), f"{subject}/{number}", "", "en", "txt", len(text), text, terms=terms))
        truth.append(subject)
    return made, truth


def test_subjects_are_told_apart_and_named_by_their_words() -> None:
    made, truth = documents()
    topics = find_topics(made, 4)
    assert topics is not None
    assert adjusted_rand_score(truth, topics.topic_N) == 1
    assert len(topics.plane_M2) == len(made)
    for number, topic in enumerate(topics.topics):
        subject = truth[int(np.flatnonzero(topics.topic_N == number)[0])]
        assert set(topic.terms) <= set(SUBJECTS[subject].split()), topic.terms
        assert topic.documents == 60


def test_neighbours_on_the_plane_share_their_topic() -> None:
    made, truth = documents()
    topics = find_topics(made, 4)
    assert topics is not None
    apart = ((topics.plane_M2[:, None] - topics.plane_M2[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    assert np.mean([truth[n] == truth[m] for n, m in enumerate(nearest)]) > 0.95


def test_the_space_is_that_of_the_largest_singular_values() -> None:
    matrix = random_sparse(80, 50, 0.2, random_state=0, format="csr")
    left, singular, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
    expected = left[:, :10] * singular[:10]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = reduce(matrix, 10)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-8)


def test_clusters_are_as_tight_as_scikit_learns() -> None:
    points = np.random.default_rng(2).normal(size=(400, 6)) + 4 * np.repeat(np.eye(6)[:5], 80, axis=0)
    ours = cluster(points, 5)
    peer = KMeans(5, n_init=10, random_state=0).fit(points)
    middles = np.stack([points[ours == k].mean(axis=0) for k in range(5)])
    assert ((points - middles[ours]) ** 2).sum() <= 1.01 * peer.inertia_


def test_too_little_has_no_topics() -> None:
    made, _ = documents(1)
    assert find_topics(made, 4) is None
    assert find_topics([], 4) is None


def test_stop_words_numbers_and_marks_name_nothing() -> None:
    assert list(terms_of("The cat, 42 of them! 这是我的，2024 年的")) == ["cat"]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"打印": {1, 2}, "印机": {1, 2}, "纸张": {3}}, ["打印机", "纸张"]),
        ({"印机": {1, 2}, "打印": {1, 2}}, ["打印机"]),
        ({"人民": {1, 2, 3}, "民工": {9}}, ["人民", "民工"]),
        ({"cat": {1}, "tail": {1}}, ["cat", "tail"]),
    ],
)
def test_pairs_that_go_together_are_words(pairs: dict[str, set[int]], words: list[str]) -> None:
    assert join_pairs(pairs) == words

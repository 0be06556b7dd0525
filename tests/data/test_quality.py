"""The quality classifier: against scikit-like truths worked out here, on held-out texts, and in the filter."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Report
from mojiang.data._linear import HashedLinear, features, load_linear
from mojiang.data.examples import Examples
from mojiang.data.filter import Filter
from mojiang.data.quality import Quality, auc

NOUNS = "house river garden window letter story city winter teacher morning".split()  # noqa: SIM905
SPAM = "offer click free winner cash bonus casino pills cheap prize".split()  # noqa: SIM905
ZH_GOOD, ZH_BAD = "图书馆在河边开放了，读者很高兴。老师说这里很好。", "免费领取现金红包！点击链接立即中奖，包邮特价！"


def sentence(chance: random.Random, vocabulary: list[str]) -> str:
    return " ".join(chance.choice([*vocabulary, "the", "a", "with", "and"]) for _ in range(30)) + "."


def corpora(corpus: Callable[..., Artifact], folder_of: Path) -> tuple[Artifact, Artifact]:
    chance = random.Random(1)
    good = {f"good{n}.txt": sentence(chance, NOUNS) for n in range(150)}
    bad = {f"bad{n}.txt": sentence(chance, SPAM) for n in range(60)}
    one = corpus(good)
    for path in (folder_of / "source").iterdir():
        path.unlink()
    return one, corpus(bad)


def test_it_tells_them_apart_on_what_it_has_not_seen_and_filters(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact], tmp_path: Path,
    rows: Callable[..., list[dict[str, Any]]],
) -> None:  # fmt: skip
    good, bad = corpora(corpus, tmp_path)
    model = make(Quality(good=good.ref, bad=bad.ref, held_out=0.3))
    assert model.kind == "model"
    assert model.metrics["precision"] >= 0.95
    assert model.metrics["recall"] >= 0.95
    assert model.metrics["texts"] + model.metrics["texts_held_out"] == 210
    table = Report.load(model.path).table("by threshold")
    recalls = [float(row[2] or 0) for row in table.rows]
    assert recalls == sorted(recalls, reverse=True)
    off: Any = {"on": False}
    for path in (tmp_path / "source").iterdir():
        path.unlink()
    chance = random.Random(9)
    mixed = corpus({"g.txt": sentence(chance, NOUNS), "b.txt": sentence(chance, SPAM)})
    kept = make(Filter(data=mixed.ref, quality=model.ref, gopher=off, repetition=off, fineweb=off))
    assert [row["path"] for row in rows(kept)] == ["g.txt"]
    (drop,) = pq.read_table(kept.path / "drops-00000.parquet").to_pylist()
    assert (drop["path"], drop["reason"]) == ("b.txt", "quality")


def test_labelled_examples_in_chinese(make: Callable[..., Artifact], tmp_path: Path) -> None:
    chance = random.Random(2)
    lines = [
        f"{label}\t{''.join(chance.sample(text, len(text) - 4))}{n}"
        for label, text in (("ok", ZH_GOOD), ("ad", ZH_BAD))
        for n in range(80)
    ]
    (tmp_path / "x.tsv").write_text("label\ttext\n" + "\n".join(lines) + "\n", encoding="utf-8")
    data = make(Examples(source=str(tmp_path / "x.tsv"), form="labelled", test=0.2))
    model = make(Quality(labelled=data.ref, good_label="ok"))
    assert model.metrics["accuracy"] >= 0.95
    loaded = load_linear(model.path)
    assert loaded.score(ZH_GOOD, "zh") > 0.5 > loaded.score(ZH_BAD, "zh")
    with pytest.raises(BadInput, match="no example is labelled 'good'"):
        make(Quality(labelled=data.ref, good_label="good"))


def test_one_step_is_the_gradient_of_the_loss() -> None:
    """The step against numerical differentiation: AdaGrad's first step has every sign right, and lowers the loss."""
    rows = [features(text, "en", 64) for text in ("the cat sat", "the dog ran far", "win cash now")]
    targets = np.array([1.0, 1.0, 0.0])

    def loss(model: HashedLinear) -> float:
        chances = model.scores(rows)
        return float(-np.mean(targets * np.log(chances) + (1 - targets) * np.log(1 - chances)))

    model, before = HashedLinear(64), HashedLinear(64)
    assert model.learn(rows, targets, 0.01) == pytest.approx(np.log(2))
    for place in np.unique(np.concatenate(rows)):
        before.weights[place] = 1e-3
        up = loss(before)
        before.weights[place] = -1e-3
        slope = (up - loss(before)) / 2e-3
        before.weights[place] = 0
        if abs(slope) > 1e-4:
            assert np.sign(model.weights[place]) == -np.sign(slope)
    assert loss(model) < np.log(2)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores, good = np.array([float(s) for s, _ in pairs]), np.array([g for _, g in pairs])
    if good.all() or not good.any():
        return
    wins = [(a > b) + 0.5 * (a == b) for a in scores[good] for b in scores[~good]]
    assert auc(scores, good) == pytest.approx(np.mean(wins))


def test_empty_texts_and_other_models(tmp_path: Path) -> None:
    assert HashedLinear(1024).scores([features("", "en", 1024), features("x", "en", 1024)]).tolist() == [0.5, 0.5]
    with pytest.raises(BadInput, match="no quality classifier"):
        load_linear(Path(__file__).parents[1] / "fixtures" / "tiny-llama")


def test_what_is_missing_is_said() -> None:
    for given_fields in (
        {},
        {"good": "a"},
        {"good": "a", "bad": "b", "labelled": "c", "good_label": "d"},
        {"labelled": "c"},
    ):
        with pytest.raises(ValidationError):
            Quality(**given_fields)

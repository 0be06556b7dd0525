from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, BadUsage
from mojiang.core.report import Report
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.examples import Examples, has_split, read_examples
from mojiang.train._folds import Fold, assign_folds, chosen_share, contents, figures, label_tables
from mojiang.train.crossval import Crossval

Put = Callable[..., Artifact]
GOOD, BAD = ("fine", "great", "lovely"), ("poor", "awful", "sad")
REST = ("film", "book", "was", "and")
BARS = Path(__file__).parents[1] / "fixtures" / "bars"
SETTINGS: dict[str, Any] = {"architecture": "textcnn", "width": 16, "steps": 40, "batch_size": 8, "learning_rate": 0.01}


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    draw, rows = random.Random(seed), dict[str, str]()
    while len(rows) < count:
        label = draw.choice(("good", "good", "bad"))
        words = [draw.choice(GOOD if label == "good" else BAD), *draw.choices(REST, k=3), str(len(rows))]
        rows[" ".join(draw.sample(words, len(words)))] = label
    return [{"text": text, "label": label} for text, label in rows.items()]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_a_partition_with_even_labels(folds: int) -> None:
    rows = reviews(60, 0)
    rows += rows[:7]  # copies
    keys, labels = contents(rows, "labelled"), [row["label"] for row in rows]
    found = assign_folds(keys, labels, folds)
    assert set(found) == set(range(folds))
    fold_of = dict(zip(keys, found.tolist(), strict=True))
    assert [fold_of[key] for key in keys] == found.tolist(), "copies are together"
    for label in set(labels):
        different = {key for key, its in zip(keys, labels, strict=True) if its == label}
        counts = [sum(fold_of[key] == fold for key in different) for fold in range(folds)]
        assert max(counts) - min(counts) <= 1
    order = random.Random(1).sample(range(len(rows)), len(rows))
    shuffled = assign_folds([keys[n] for n in order], [labels[n] for n in order], folds)
    assert shuffled.tolist() == [found[n] for n in order]


def test_a_smaller_share_is_a_part_of_a_larger_one_and_has_every_label() -> None:
    rows = reviews(40, 0)
    keys, labels = contents(rows, "labelled"), [row["label"] for row in rows]
    among = np.arange(40) % 4 > 0
    small, large = (chosen_share(keys, labels, among, share) for share in (0.1, 0.5))
    assert (small <= large).all()
    assert (large <= among).all()
    assert {labels[n] for n in np.flatnonzero(small)} == {"good", "bad"}
    assert large.sum() == pytest.approx(15, abs=2)
    assert chosen_share(keys, labels, among, 1.0).tolist() == among.tolist()


def test_a_fold_holds_what_belongs_to_it(store: Store, dataset: Put) -> None:
    whole = dataset("reviews", "labelled", train=reviews(20, 0), validation=reviews(6, 5))
    tests = []
    for fold in range(4):
        part = execute(Fold(data="reviews", form="labelled", folds=4, fold=fold), store, name="fold").artifact
        train, test = ({row["text"] for row in read_examples(part.path, s, "labelled")} for s in ("train", "test"))
        assert not train & test
        assert len(train | test) == 20
        tests += sorted(test)
        validation = list(read_examples(part.path, "validation", "labelled"))
        assert validation == list(read_examples(whole.path, "validation", "labelled"))
    assert len(tests) == len(set(tests)) == 20


def test_label_tables_are_those_of_the_textbook() -> None:
    labels, matrix = label_tables(np.array([[5, 1, 0], [2, 3, 0], [0, 1, 0]]), ["a", "b", "c"])
    assert labels.rows[0] == ["a", 5 / 7, 5 / 6, pytest.approx(10 / 13), 6]
    assert labels.rows[2] == ["c", 0.0, 0.0, 0.0, 1]
    assert matrix.rows[1] == ["b", 2, 3, 0]


def test_texts(store: Store, dataset: Put, network: Put) -> None:
    data = dataset("reviews", "labelled", train=reviews(36, 0), test=reviews(12, 9))
    network("words", (*GOOD, *BAD, *REST))
    recipe = Crossval(of="train.classify", data="reviews", tokenizer="words", settings=SETTINGS, folds=2, shares=(0.3,))
    artifact = execute(recipe, store, name="cv").artifact
    report = Report.load(artifact.path)
    models = [store.get(f"cv-model@fold-{fold}") for fold in (1, 2)]
    theirs = [float(model.metrics["test_accuracy"]) for model in models]  # measured by the recipe itself
    assert [row[1] for row in report.table("folds").rows] == pytest.approx(theirs, abs=1e-5)
    assert report.scalars["accuracy_mean"] == pytest.approx(statistics.mean(theirs), abs=1e-5)
    assert report.scalars["accuracy_sd"] == pytest.approx(statistics.stdev(theirs), abs=1e-5)
    saved = pq.read_table(artifact.path / "out_of_fold.parquet").to_pylist()
    assert [row["id"] for row in saved] == [row["id"] for row in read_examples(data.path, "train", "labelled")]
    assert [row["label"] for row in saved] == [row["label"] for row in read_examples(data.path, "train", "labelled")]
    assert statistics.mean(row["label"] == row["predicted"] for row in saved) == pytest.approx(
        report.scalars["out_of_fold_accuracy"]
    )
    confused = report.table("confusion").rows
    for row in confused:
        for column, predicted in enumerate(("bad", "good"), 1):
            assert row[column] == sum(one["label"] == row[0] and one["predicted"] == predicted for one in saved)
    assert report.scalars["out_of_fold_accuracy"] > 0.8, "the words give it away"
    curve = report.series[0]
    assert curve.x[0] < curve.x[1] == 18
    assert curve.lines["accuracy"][1] == report.scalars["accuracy_mean"]
    assert len([run for run in store.runs() if run["recipe"] == "train.classify"]) == 4
    ensemble = {row[0]: row[1:] for row in report.table("ensemble on the test split").rows}
    assert ensemble["ensemble"][2] <= ensemble["model alone, mean"][2] + 1e-12, "the loss is convex"


def test_the_ensemble_is_the_mean_of_the_probabilities() -> None:
    thought_KBC = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.3, 0.7]]])
    found = figures(np.array([0, 0]), thought_KBC.mean(0))
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-(np.log(0.55) + np.log(0.35)) / 2)


def test_images(store: Store) -> None:
    execute(Examples(source=str(BARS), form="images", validation=0, test=0.2), store, name="bars")
    settings = {"architecture": "lenet", "enlarge": 1, "steps": 4, "batch_size": 16, "mirror": False}
    recipe = Crossval(of="train.image_classify", data="bars", settings=settings, folds=2)
    report = Report.load(execute(recipe, store, name="cv").artifact.path)
    theirs = [float(store.get(f"cv-model@fold-{fold}").metrics["test_accuracy"]) for fold in (1, 2)]
    assert [row[1] for row in report.table("folds").rows] == pytest.approx(theirs, abs=1e-5)
    assert not has_split(store.get("cv-fold").path, "validation", "images")
    assert report.table("ensemble on the test split").rows[0][0] == "ensemble"


def test_mistakes_are_said(store: Store, dataset: Put) -> None:
    with pytest.raises(BadInput, match="label 'odd' has one example"):
        assign_folds(["1", "2", "3", "3"], ["even", "even", "odd", "odd"], 2)
    with pytest.raises(BadInput, match="2 examples for 3 folds"):
        assign_folds(["1", "2"], ["even", "even"], 3)
    dataset("reviews", "labelled", train=reviews(8, 0))
    recipe = Crossval(of="train.classify", data="reviews", settings={"model": "elsewhere", "widht": 3}, folds=2)
    with pytest.raises(BadUsage, match="'elsewhere' for model"):
        execute(recipe, store)

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.examples import Examples
from mojiang.train._scores import accuracy, confusion, macro_f1
from mojiang.train._settings import Optim
from mojiang.train.classify import Classify
from mojiang.train.pretrain import Pretrain

WORDS = {"good": ("lovely", "joyful", "splendid", "warm"), "bad": ("dreadful", "boring", "tedious", "cold")}


@pytest.fixture
def reviews(workspace: Store, tmp_path: Path) -> Store:
    """The workspace with texts whose label one of their words gives away."""
    draw = random.Random(0)
    filler = ["the", "film", "was", "seen", "by", "many", "people", "on", "a", "rainy", "evening", "in", "town", "and"]
    with open(tmp_path / "reviews.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(240):
            label = ("good", "bad")[number % 2]
            words = draw.sample(filler, draw.randint(4, 12)) + [draw.choice(WORDS[label]), str(number)]
            draw.shuffle(words)
            writer.writerow([" ".join(words), label])
    recipe = Examples(source=str(tmp_path / "reviews.csv"), form="labelled", validation=0.2, test=0.2)
    execute(recipe, workspace, name="reviews")
    return workspace


@pytest.mark.parametrize("architecture", ["textcnn", "lstm", "gru"])
def test_a_network_from_scratch_finds_the_words_that_matter(reviews: Store, architecture: str) -> None:
    recipe = Classify(
        data="reviews", tokenizer="bpe", architecture=architecture, width=32, epochs=12, batch_size=16,
        learning_rate=0.01, precision="fp32",
    )  # fmt: skip
    metrics = execute(recipe, reviews, name=architecture).artifact.metrics
    assert metrics["test_accuracy"] >= 0.9  # type: ignore[operator]
    assert metrics["validation_accuracy"] >= 0.9  # type: ignore[operator]


def test_a_decoder_gets_a_new_head_and_transformers_reads_the_result(reviews: Store) -> None:
    base = Pretrain(
        data="split", tokenizer="bpe", steps=2, width=64, depth=2, context=128, batch_tokens=512, precision="fp32"
    )
    execute(base, reviews, name="base")
    recipe = Classify(model="base", data="reviews", epochs=60, batch_size=32, learning_rate=1e-2, precision="fp32")
    artifact = execute(recipe, reviews, name="classifier").artifact
    assert artifact.metrics["test_accuracy"] >= 0.9  # type: ignore[operator]
    theirs = AutoModelForSequenceClassification.from_pretrained(artifact.path).eval()
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    tokens = AutoTokenizer.from_pretrained(artifact.path)("a splendid evening", return_tensors="pt")
    with torch.no_grad():
        label = theirs(**{k: v for k, v in tokens.items() if k != "token_type_ids"}).logits.argmax().item()
    assert theirs.config.id2label[label] == "good"


def test_one_label_or_one_that_training_never_saw_is_refused(workspace: Store, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text("\n".join(f'{{"text": "text {n}", "label": "a"}}' for n in range(20)))
    execute(Examples(source=str(tmp_path / "one.jsonl"), form="labelled"), workspace, name="one")
    with pytest.raises(BadInput, match="at least two|has the labels"):
        execute(Classify(data="one", tokenizer="bpe", architecture="gru", width=8, steps=1), workspace)
    folder = tmp_path / "two"
    folder.mkdir()
    rows = [f'{{"text": "text {n}", "label": "{"ab"[n % 2]}"}}' for n in range(20)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    (folder / "test.jsonl").write_text('{"text": "another", "label": "c"}')
    execute(Examples(source=str(folder), form="labelled"), workspace, name="two")
    with pytest.raises(BadInput, match=r"\['c'\] are not in the training split"):
        execute(Classify(data="two", tokenizer="bpe", architecture="gru", width=8, steps=1), workspace)


@pytest.mark.parametrize(
    "settings", [{}, {"model": "a", "tokenizer": "b"}, {"tokenizer": "b"}, {"model": "a", "architecture": "gru"}]
)
def test_exactly_one_start_is_given(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either a model"):
        Classify(data="d", **settings)  # type: ignore[arg-type]


def test_figures_are_those_of_a_known_matrix() -> None:
    counts = confusion([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0], 3)
    assert accuracy(counts) == pytest.approx(4 / 6)
    assert macro_f1(counts) == pytest.approx((2 * 2 / (3 + 3) + 2 * 2 / (2 + 3) + 0) / 3)


@pytest.mark.parametrize(("given", "rate"), [({}, 1e-3), ({"learning_rate": 5e-4}, 5e-4), ({"optim": Optim()}, 3e-4)])
def test_a_network_from_scratch_learns_faster_unless_told_otherwise(given: dict[str, Any], rate: float) -> None:
    recipe = Classify(data="d", tokenizer="t", architecture="textcnn", warmup_steps=7, **given)
    assert recipe.optim.learning_rate == rate
    assert recipe.optim.schedule == ("wsd" if "optim" in given else "linear")
    assert Classify.model_validate_json(recipe.model_dump_json()) == recipe
    assert Classify(data="d", model="m").optim.learning_rate == 1e-4

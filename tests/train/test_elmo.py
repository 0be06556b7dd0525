"""A language whose entropy is known, read from both sides; and a word that means two things."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.model.load import load_model
from mojiang.tokenizer._pack import IGNORE
from mojiang.train._batches import Examples
from mojiang.train._bilm import BiLM
from mojiang.train.elmo import ELMo

Put = Callable[..., Artifact]
SMALL: dict[str, Any] = {
    "width": 16, "cells": 32, "min_count": 1, "batch_size": 32, "dropout": 0.0, "precision": "fp32", "validations": 1,
}  # fmt: skip


def sentence(draw: random.Random) -> list[str]:
    """A subject, a verb of two and an object, where the object follows from the subject: 3 · 2 · 2 equally likely."""
    kind = draw.choice(["animal", "河", "money"])
    things = {"animal": ("cat", "dog"), "河": ("水", "岸"), "money": ("coin", "note")}[kind]
    return [kind, draw.choice(["likes", "hates"]), "bank", draw.choice(things)]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"tokens": sentence(draw), "tags": ["O"] * 4} for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("elmo")
    for split, count in (("train", 400), ("validation", 60), ("test", 60)):
        lines = (json.dumps(row, ensure_ascii=False) for row in rows(count, count))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    from mojiang.data.examples import Examples as Make

    store = Store(folder / "workspace")
    execute(Make(source=str(folder), form="tagged", validation=0, test=0, dedup=False), store, name="data")
    return execute(ELMo(data="data", epochs=10, learning_rate=0.02, **SMALL), store, name="elmo").artifact


def test_both_directions_come_to_the_entropy_of_the_language(trained: Artifact) -> None:
    """Twelve sentences are equally likely, whichever end one begins at: log 12 nats for the four words and the end."""
    true = math.exp(math.log(12) / 5)
    for name in ("validation_forward_perplexity", "validation_backward_perplexity", "test_forward_perplexity"):
        assert true * 0.97 < float(trained.metrics[name]) < true * 1.06, name
        assert float(trained.metrics["validation_forward_perplexity_before"]) > 3 * true
    assert trained.metrics["train_unknown"] == 0


def test_the_folder_gives_vectors_that_tell_a_words_meanings_apart(trained: Artifact) -> None:
    model: Any = load_model(trained.path)
    vocabulary = json.loads((trained.path / "vocabulary.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == model.config.vocab_size == trained.metrics["vocabulary"]
    draw = random.Random(5)
    sentences = [sentence(draw) for _ in range(60)]
    banks = torch.stack([vectors[2] for vectors in model.vectors(sentences)])  # (60, layers, 2P)
    assert torch.equal(banks[:, 0], banks[:1, 0].expand(60, -1))  # its own vector is the same everywhere
    kinds = np.array([words[0] for words in sentences])
    last = torch.nn.functional.normalize(banks[:, -1], dim=1)
    near = (last @ last.T).fill_diagonal_(-1).argmax(1).numpy()
    assert (kinds[near] == kinds).mean() > 0.95
    from mojiang.model.elmo import read

    states = model(*read([["河", "likes", "bank", "水"]]))[-1]
    ahead, back = (model.logits(part)[0] for part in states.chunk(2, -1))
    assert {vocabulary[n] for n in ahead[3].topk(2).indices} == {"水", "岸"}
    assert vocabulary[int(back[3].argmax())] in ("likes", "hates")
    assert vocabulary[int(back[2].argmax())] == "河"
    assert vocabulary[int(back[1].argmax())] == vocabulary[int(ahead[4].argmax())] == "<s>"


def test_what_is_predicted_where() -> None:
    objective = BiLM(np.zeros((6, 3), np.int16), vocab_size=4)
    batch = Examples({"words": [np.array([0, 3, 5, 1]), np.array([0, 2, 1])]}, "words")
    words, mask, (following, previous) = objective._inputs(batch, "cpu")
    assert words.tolist() == [[0, 3, 5, 1], [0, 2, 1, 0]]
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert following.tolist() == [[3, 0, 1, IGNORE], [2, 1, IGNORE, IGNORE]]  # 5 is not known, so 0
    assert previous.tolist() == [[IGNORE, 1, 3, 0], [IGNORE, 1, 2, IGNORE]]
    assert objective.counts(batch) == {"forward": 5.0, "backward": 5.0}


def test_rare_words_are_read_and_not_predicted_and_long_sentences_are_cut(
    store: Store, dataset: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [{"tokens": ["a", "b"] * 6, "tags": ["O"] * 12}, {"tokens": ["a", "rare"], "tags": ["O", "O"]}]
    dataset("data", "tagged", train=train, validation=[{"tokens": ["a", "new"], "tags": ["O", "O"]}])
    recipe = ELMo(data="data", steps=2, **{**SMALL, "min_count": 2}, context=8)
    made = execute(recipe, store, name="elmo").artifact
    assert json.loads((made.path / "vocabulary.json").read_text()) == ["<unk>", "<s>", "a", "b"]
    assert made.metrics["words"] == 4
    assert made.metrics["examples"] == 3
    assert made.metrics["validation_unknown"] == 0.5
    with pytest.raises(BadInput, match="occurs 99 times or more"):
        execute(ELMo(data="data", steps=2, **{**SMALL, "min_count": 99}), store)


def test_chinese_texts_are_read_as_the_analysis_says(store: Store, tmp_path: Path) -> None:
    (tmp_path / "zh.jsonl").write_text(json.dumps({"text": "银行在河边。银行很大。"}, ensure_ascii=False), "utf-8")
    execute(Load(source=str(tmp_path / "zh.jsonl")), store, name="texts")
    made = execute(ELMo(data="texts", steps=1, **SMALL), store, name="elmo").artifact
    vocabulary = json.loads((made.path / "vocabulary.json").read_text(encoding="utf-8"))
    assert set(vocabulary) == {"<unk>", "<s>", *"银行在河边很大。"}


def test_memory_smaller_than_its_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="cells is 64, width 64"):
        ELMo(data="a", width=64, cells=64)

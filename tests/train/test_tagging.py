from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model.load import load_model
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import load_tokenizer
from mojiang.train._scores import entities, entity_f1
from mojiang.train._tagging import encode_tagged, is_chunked, scheme_of
from mojiang.train.tagging import Tagging

Put = Callable[..., Artifact]
Build = Callable[[int], Network]
NAMES, PLACES = ("ada", "alan", "grace"), ("paris", "berlin", "oslo")
WORDS = (*NAMES, *PLACES, "new", "york", "met", "in", "and", "saw")


def conlleval(tags: list[str]) -> set[tuple[int, int, str]]:
    """The two questions of the conlleval script, asked at every border between two words."""
    parts = [("O", ""), *(tag.partition("-")[::2] for tag in tags), ("O", "")]
    found, start = set(), 0
    for at, ((before, kind_before), (tag, kind)) in enumerate(zip(parts, parts[1:], strict=False)):
        pair = before + tag
        differs = kind != kind_before
        ends = before in "ES" or pair in ("BB", "BS", "BO", "IB", "IS", "IO") or (before not in "O" and differs)
        starts = tag in "BS" or pair in ("EE", "EI", "SE", "SI", "OE", "OI") or (tag not in "O" and differs)
        if ends and before != "O":
            found.add((start, at, kind_before))
        if starts and tag != "O":
            start = at
    return found


def test_entities_are_those_of_conlleval() -> None:
    draw = random.Random(0)
    tags = [f"{letter}-{kind}" for letter in "BIES" for kind in "XY"] + ["O"]
    for _ in range(300):
        row = draw.choices(tags, k=draw.randint(0, 8))
        assert entities(row) == conlleval(row), row


def test_entity_f1_counts_whole_entities() -> None:
    right = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "B-LOC"]]
    assert entity_f1(right, found) == {"f1": pytest.approx(4 / 7), "precision": 0.5, "recall": pytest.approx(2 / 3)}


def test_scheme_is_one_that_the_rows_keep_to() -> None:
    labels = ["B-X", "I-X", "O"]
    assert scheme_of(labels, [{"tags": ["B-X", "I-X", "O"]}]) == "bio"
    assert scheme_of(labels, [{"tags": ["O", "I-X"]}]) is None  # IOB1, where an entity may begin with I
    assert scheme_of(["B", "E", "M", "S"], [{"tags": ["B", "M", "E", "S"]}]) == "bmes"
    assert scheme_of(["NOUN", "VERB"], [{"tags": ["NOUN"]}]) is None
    assert is_chunked(["B", "E", "M", "S"])
    assert not is_chunked(["NOUN", "O"])


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Who met whom where; the tag follows from the word, except that York is a place only after New."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        place, tags = (
            ([draw.choice(PLACES)], ["B-LOC"]) if draw.random() < 0.7 else (["new", "york"], ["B-LOC", "I-LOC"])
        )
        words = [draw.choice(NAMES), draw.choice(["met", "saw"]), draw.choice(NAMES), "in", *place]
        made.append({"tokens": words, "tags": ["B-PER", "O", "B-PER", "O", *tags]})
    return made


def test_labels_are_on_first_tokens_and_what_is_cut_is_counted(network: Put) -> None:
    tokenizer = load_tokenizer(network("words", WORDS[:-1]).path)
    row = {"tokens": ["ada", "saw", "oslo"], "tags": ["B", "O", "B"]}  # "saw" is no piece: three letters
    examples, cut = encode_tagged([row], ["B", "O"], tokenizer, 64)
    assert examples["targets"][0].tolist() == [IGNORE, 0, 1, IGNORE, IGNORE, 0, IGNORE]
    assert tokenizer.token(examples["tokens"][0][1]) == "ada"
    assert cut == 0
    examples, cut = encode_tagged([row], ["B", "O"], tokenizer, 6)
    assert examples["targets"][0].tolist() == [IGNORE, 0, 1, IGNORE, IGNORE, IGNORE]
    assert cut == 1
    with pytest.raises(BadInput, match="labels \\['B'\\] are not in the training split"):
        encode_tagged([row], ["O", "X"], tokenizer, 64)


def test_encoder_learns_to_tag_and_is_a_transformers_model(
    store: Store, dataset: Put, network: Put, bert: Build
) -> None:
    dataset("names", "tagged", train=rows(60), validation=rows(20, 1), test=rows(20, 2))
    network("bert", WORDS, bert)
    recipe = Tagging(model="bert", data="names", steps=40, learning_rate=5e-3, precision="fp32", dropout=0.0)
    made = execute(recipe, store, name="tagger").artifact
    assert made.metrics["validation_f1"] == made.metrics["test_f1"] == 1.0
    assert made.metrics["validation_f1_before"] < 0.5  # type: ignore[operator]
    theirs, report = AutoModelForTokenClassification.from_pretrained(made.path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.id2label == {0: "B-LOC", 1: "B-PER", 2: "I-LOC", 3: "O"}
    tokenizer, ours = load_tokenizer(made.path), load_model(made.path)
    tokens_1T = torch.tensor([tokenizer.frame(tokenizer.encode_words(["ada", "saw", "oslo"])[0])[0]])
    with torch.no_grad():
        torch.testing.assert_close(ours.scores(ours(tokens_1T)), theirs(tokens_1T).logits, atol=1e-4, rtol=0)


def test_crf_learns_to_tag_and_predicts_only_what_the_scheme_allows(store: Store, dataset: Put, network: Put) -> None:
    dataset("names", "tagged", train=rows(60), validation=rows(20, 1))
    network("words", WORDS)
    recipe = Tagging(
        tokenizer="words", architecture="bilstm_crf", width=16, data="names", steps=30, learning_rate=0.03,
        precision="fp32", dropout=0.0,
    )  # fmt: skip
    made = execute(recipe, store, name="tagger").artifact
    assert made.metrics["validation_f1"] == 1.0
    model: Any = load_model(made.path)
    assert model.config.scheme == "bio"
    tags_BT = model.decode(torch.randn(8, 12, 4, generator=torch.Generator().manual_seed(0)))
    names = [[model.config.id2label[tag] for tag in row] for row in tags_BT.tolist()]
    assert all(
        tag != "I-LOC" or before in ("B-LOC", "I-LOC")
        for row in names
        for before, tag in zip(["O", *row], row, strict=False)
    )


def test_either_a_model_or_a_tokenizer_is_given() -> None:
    with pytest.raises(ValueError, match="either a model to fine-tune"):
        Tagging(data="a", model="b", tokenizer="c")


def test_unknown_tags_stop_before_training(
    store: Store, dataset: Put, network: Put, bert: Build, tmp_path: Path
) -> None:
    dataset("names", "tagged", train=rows(10), validation=[{"tokens": ["ada"], "tags": ["B-ORG"]}])
    network("bert", WORDS, bert)
    with pytest.raises(BadInput, match="B-ORG"):
        execute(Tagging(model="bert", data="names", steps=1), store)

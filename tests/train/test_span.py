from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model.network import Network
from mojiang.tokenizer.load import load_tokenizer
from mojiang.train._batches import Examples
from mojiang.train._scores import answer_scores
from mojiang.train._spans import Extraction, Windows, allowed, best_answer, cuts, encode_spans
from mojiang.train.span import Span

Put = Callable[..., Artifact]
Build = Callable[[int], Network]
NAMES, PLACES = ("ada", "alan", "grace", "kurt"), ("paris", "berlin", "oslo", "rome")
WORDS = (*NAMES, *PLACES, "lives", "in", "where", "is", "and")

ANSWERS = ("The red fox.", "a red, red fox", "RED FOX", "an apple", "fox's den", "", "the", "two  foxes")


def official(right: str, predicted: str) -> tuple[int, float]:
    """Exact match and F1 as in SQuAD's evaluate-v2.0.py."""

    def normalised(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    gold, found = normalised(right), normalised(predicted)
    same = sum((Counter(gold) & Counter(found)).values())
    exact = int(gold == found)
    if not gold or not found:
        return exact, float(exact)
    return exact, 0.0 if same == 0 else 2 * (same / len(found)) * (same / len(gold)) / (
        same / len(found) + same / len(gold)
    )


@pytest.mark.parametrize("predicted", ANSWERS)
def test_english_answers_score_as_the_official_script_says(predicted: str) -> None:
    for right in ANSWERS:
        assert answer_scores(predicted, [right]) == pytest.approx(official(right, predicted))


def test_chinese_answers_score_by_characters_and_the_best_answer_counts() -> None:
    assert answer_scores("在北京。", ["北京"]) == (0.0, pytest.approx(0.8))
    assert answer_scores("《北京》", ["上海", "北京"]) == (1.0, 1.0)
    assert answer_scores("anything", []) == (0.0, 0.0)


def test_windows_cover_the_text_and_overlap() -> None:
    for length in range(0, 40):
        made = list(cuts(length, 10, 3))
        assert sorted({at for start, stop in made for at in range(start, stop)}) == list(range(length))
        assert all(before[1] - after[0] == 3 for before, after in zip(made, made[1:], strict=False))
        assert all(stop - start <= 10 for start, stop in made)
    with pytest.raises(BadInput, match="3 tokens are left for the text, and windows share 3"):
        list(cuts(5, 3, 3))


def row(text: str, answer: str | None) -> dict[str, Any]:
    answers = [] if answer is None else [{"text": answer, "start": text.index(answer)}]
    return {"question": "where is ada", "context": text, "answers": answers}


def test_targets_are_the_answers_tokens_in_each_window(network: Put) -> None:
    tokenizer = load_tokenizer(network("words", WORDS).path)
    text = "Alan lives in Oslo and Ada lives in Berlin and Kurt lives in Rome"
    examples, cut = encode_spans([row(text, "in Berlin")], tokenizer, Windows(15, 3, 3))
    assert cut == 0
    assert len(examples) == 2  # nine tokens of text each, three of them shared
    seen = 0
    for at in range(len(examples)):
        window = examples.take([at])
        tokens, first, stop = window["tokens"][0], int(window["first"][0]), int(window["stop"][0])
        assert [tokenizer.token(tokens[n]) for n in (0, first - 1, stop)] == ["[CLS]", "[SEP]", "[SEP]"]
        begin, end = int(window["begin"][0]), int(window["end"][0])
        if begin:
            seen += 1
            assert tokenizer.decode(tokens[begin : end + 1]) == "in berlin"
        words = text.lower().split()
        assert [words.index(tokenizer.token(t)) >= 0 for t in tokens[first:stop]]
        for token, (start, last) in zip(tokens[first:stop], window["places"][0], strict=True):
            assert text[start:last].lower() == tokenizer.token(token)
    assert seen == 2  # it is in what both share
    examples, cut = encode_spans([row("Oslo", None)], tokenizer, Windows(15, 3, 2))
    assert (examples["begin"].tolist(), examples["end"].tolist(), cut) == ([0], [0], 1)


def test_only_the_text_and_the_first_token_can_be_answers() -> None:
    batch = Examples({"first": np.array([2, 3]), "stop": np.array([4, 4])})
    assert allowed(batch, torch.zeros(2, 5, 2)).int().tolist() == [[1, 0, 1, 1, 0], [1, 0, 0, 1, 0]]


def test_best_answer_ends_after_it_begins_and_is_not_too_long() -> None:
    places = [(n, n + 1) for n in range(4)]
    window = Examples({"first": np.array([1]), "stop": np.array([5]), "places": [places], "text": ["abcd"]})
    scores = np.zeros((6, 2))
    scores[[4, 2, 1], [0, 0, 0]] = 9, 5, 4
    scores[[1, 3, 4], [1, 1, 1]] = 9, 5, 6
    scores[0] = 99  # what is not in the text does not count here
    assert best_answer(scores, window, 30) == (15, "d")
    scores[4] = 0, 6
    assert best_answer(scores, window, 30) == (13, "a")
    scores[1] = 4, -9
    assert best_answer(scores, window, 30) == (11, "bcd")
    assert best_answer(scores, window, 2) == (10, "bc")


def facts(count: int, seed: int, with_none: bool = True) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        people, places = draw.sample(NAMES, 2), draw.sample(PLACES, 2)
        text = " and ".join(f"{person} lives in {place}" for person, place in zip(people, places, strict=True))
        asked = draw.choice(people) if not with_none or draw.random() < 0.7 else draw.choice(NAMES)
        known = dict(zip(people, places, strict=True)).get(asked)
        made.append({**row(text, known), "question": f"where is {asked}"})
    return made


class Oracle(torch.nn.Module):
    """Scores every answer it is given in `right` highest, and no answer where there is none."""

    def __init__(self, batches: Examples) -> None:
        super().__init__()
        self.right = {
            tuple(t): (b, e) for t, b, e in zip(batches["tokens"], batches["begin"], batches["end"], strict=True)
        }
        self.device = torch.device("cpu")

    def forward(self, tokens_BT: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores_BT2 = torch.zeros(*tokens_BT.shape, 2)
        for number, (tokens_T, stop) in enumerate(zip(tokens_BT.tolist(), mask[:, 2].tolist(), strict=True)):
            for side, at in enumerate(self.right[tuple(tokens_T[:stop])]):
                scores_BT2[number, at, side] = 5
        return scores_BT2

    def scores(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return hidden


def test_figures_are_perfect_for_a_model_that_knows(network: Put) -> None:
    tokenizer = load_tokenizer(network("words", WORDS).path)
    examples, _ = encode_spans(facts(20, 0), tokenizer, Windows(12, 3, 3))
    model: Any = Oracle(examples)
    figures = Extraction(0).measure(model, examples, 100)
    assert figures["f1"] == figures["exact_match"] == 1.0
    unanswered = np.mean(
        [not answers for answers in dict(zip(examples["row"].tolist(), examples["answers"], strict=True)).values()]
    )
    assert 0 < unanswered < 1
    sure = Extraction(0, unanswerable=False).measure(model, examples, 100)
    assert sure["exact_match"] == pytest.approx(1 - unanswered)  # something is given wherever nothing was right


def test_bert_learns_to_find_answers(store: Store, dataset: Put, network: Put, bert: Build) -> None:
    dataset("facts", "spans", train=facts(60, 0), validation=facts(20, 1), test=facts(10, 2))
    network("bert", WORDS, bert)
    recipe = Span(model="bert", data="facts", context=12, stride=2, steps=25, learning_rate=5e-3, precision="fp32")
    made = execute(recipe, store, name="finder").artifact
    assert made.metrics["validation_loss"] < made.metrics["validation_loss_before"] - 0.5  # type: ignore[operator]
    assert made.metrics["windows"] > made.metrics["questions"] == 60  # type: ignore[operator]
    assert "test_f1" in made.metrics

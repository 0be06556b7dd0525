"""Training of the two CRFs of a segmenter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mojiang.core.report import Cell, Table
from mojiang.text._crf import Ints, Trainer, Weights, batches, decode
from mojiang.text._features import Keys, character_keys, known_columns, vocabulary_of, word_features
from mojiang.text._scoring import borders
from mojiang.text._segmenter import ILLEGAL, Segmenter, Tagger, bmes
from mojiang.text.segment import as_labels

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.text.segment import Rows, Segment

_SMALL = 1e-3  # weights below it move no decision worth its bytes


def train_characters(run: Run, recipe: Segment, train: Rows, validation: Rows) -> Segmenter:
    """The CRF over characters."""

    def prepare(rows: Rows) -> tuple[Keys, Ints, Ints]:
        keys, lengths = character_keys(["".join(row["tokens"]) for row in rows])
        return keys, lengths, bmes([row["tokens"] for row in rows])

    held = prepare(validation) if validation else None
    return Segmenter(_fit(run, recipe, prepare(train), held, 4, ILLEGAL, "characters"))


def train_words(run: Run, recipe: Segment, segmenter: Segmenter, train: Rows, validation: Rows) -> Segmenter:
    """The segmenter with a CRF over words, learned on the right words."""
    labels = tuple(sorted({tag for row in train for tag in row["tags"]}))

    def prepare(rows: Rows) -> tuple[Keys, Ints, Ints]:
        keys, lengths = word_features([row["tokens"] for row in rows])
        return keys, lengths, as_labels([tag for row in rows for tag in row["tags"]], labels)

    held = prepare(validation) if validation else None
    tagger = _fit(run, recipe, prepare(train), held, len(labels), None, "words")
    return Segmenter(segmenter.characters, tagger, labels)


def _fit(
    run: Run, recipe: Segment, train: tuple[Keys, Ints, Ints], validation: tuple[Keys, Ints, Ints] | None,
    num_labels: int, illegal: tuple[Any, Any, Any] | None, what: str,
) -> Tagger:  # fmt: skip
    keys_NK, lengths, tags_N = train
    vocabulary = vocabulary_of(keys_NK, recipe.min_count)
    made = batches(known_columns(keys_NK, vocabulary), tags_N, lengths, recipe.batch)
    del keys_NK, train
    held = known_columns(validation[0], vocabulary) if validation else None
    trainer = Trainer(Weights.zeros(len(vocabulary), num_labels), recipe.rate, recipe.l2)
    best, best_weights, done = -1.0, trainer.weights, 0

    def each() -> None:
        nonlocal done
        done += 1
        run.progress(done, recipe.epochs * len(made), unit="batches", learning=what)
        run.check_stop()

    for epoch in range(recipe.epochs):
        order = np.random.default_rng([run.seed, 2, epoch]).permutation(len(made))
        figures = {f"{what}_loss": trainer.epoch(made, order, each)}
        right = float(epoch)
        if validation is not None:
            right = float((decode(held, validation[1], trainer.weights, illegal) == validation[2]).mean())
            figures[f"{what}_validation_accuracy"] = right
        run.metrics(epoch + 1, **figures)
        if right > best:
            best, best_weights = right, _copy(trainer.weights)
    return _pruned(vocabulary, best_weights)


def _copy(weights: Weights) -> Weights:
    return Weights(weights.features_FC.copy(), *(array.copy() for array in weights.arrays()))


def _pruned(vocabulary: Keys, weights: Weights) -> Tagger:
    kept = np.abs(weights.features_FC).max(axis=1, initial=0) > _SMALL
    return Tagger(vocabulary[kept], Weights(weights.features_FC[kept], *weights.arrays()))


def tag_accuracy(
    segmenter: Segmenter, test: Rows, found: Sequence[Sequence[str]], known: Collection[str]
) -> tuple[dict[str, float], Table]:
    """How many right words get their right tag, and F1 of words with tags when the words are our own."""
    gold = [row["tokens"] for row in test]
    right = total = new = new_right = both = 0
    by_tag: dict[str, list[int]] = {}
    for row, tags in zip(test, segmenter.tag(gold), strict=True):
        for word, tag, guess in zip(row["tokens"], row["tags"], tags, strict=True):
            hit = tag == guess
            total, right = total + 1, right + hit
            new, new_right = new + (word not in known), new_right + (hit and word not in known)
            counts = by_tag.setdefault(tag, [0, 0])
            counts[0], counts[1] = counts[0] + 1, counts[1] + hit
    for row, words, tags in zip(test, found, segmenter.tag(found), strict=True):
        truth = set(zip(borders(row["tokens"]), row["tags"], strict=True))
        both += len(truth & set(zip(borders(words), tags, strict=True)))
    ranked = sorted(by_tag.items(), key=lambda item: (-item[1][0], item[0]))
    rows: list[list[Cell]] = [[tag, n, hits / n] for tag, (n, hits) in ranked]
    figures = {
        "pos_accuracy": right / max(total, 1), "pos_accuracy_unknown": new_right / max(new, 1),
        "pos_f1": 2 * both / max(total + sum(map(len, found)), 1),
    }  # fmt: skip
    return figures, Table(title="Tags of the right words", columns=["tag", "words", "right"], rows=rows)

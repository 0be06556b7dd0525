"""ELMo on real text: beside Kneser-Ney n-grams over the same words, and what its vectors know that static ones do not.

    python bench/elmo.py --data brown --workspace WORKSPACE [--settings '{"epochs": 8}']
    python bench/elmo.py --data people-daily --workspace WORKSPACE

Trains `train.elmo` on a set of `data.fetch` that has words with tags, then prints

- perplexity of the test split in both directions, beside interpolated modified Kneser-Ney n-grams of orders 3 to 5 that
  predict the same words (the same vocabulary, unknown words and ends of sentences), trained on the same sentences, read
  in the same direction;
- of ambiguous words, the share whose tag is that of their nearest neighbours among training occurrences of the same
  word, by each layer; a static vector cannot tell them apart, so its share is that of each word's most frequent tag;
- accuracy of one small BiLSTM tagger, trained on a few sentences, with and without a learned mix of ELMo's layers.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import mojiang
from mojiang.core.run import execute
from mojiang.data.examples import read_examples
from mojiang.data.fetch import Fetch
from mojiang.evaluate._ngram import KneserNey
from mojiang.model.elmo import ELMo as Network
from mojiang.model.elmo import ScalarMix
from mojiang.model.load import load_model
from mojiang.train.elmo import ELMo

Row = dict[str, Any]
ORDERS = (3, 4, 5)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", default="brown", choices=("brown", "people-daily"))
    options.add_argument("--workspace", required=True)
    options.add_argument("--sentences", type=int, help="take so many of the set's sentences (all)")
    options.add_argument("--settings", default="{}", help="settings of train.elmo, as JSON")
    options.add_argument("--tagger-sentences", type=int, default=1000)
    given = options.parse_args()
    store = mojiang.open(given.workspace)
    data = execute(Fetch(dataset=given.data, max_examples=given.sentences), store, name=given.data).artifact
    recipe = ELMo.model_validate({"data": given.data, **json.loads(given.settings)})
    made = execute(recipe, store, name=f"elmo-{given.data}").artifact
    print({name: value for name, value in made.metrics.items() if "perplexity" in name or "unknown" in name})
    print("parameters, seconds:", made.metrics["parameters"], made.metrics["train_seconds"])
    rows = {split: list(read_examples(data.path, split, "tagged")) for split in ("train", "test")}
    vocabulary = json.loads((made.path / "vocabulary.json").read_text(encoding="utf-8"))
    ngrams(rows, vocabulary)
    network: Any = load_model(made.path)
    senses(rows, network)
    taggers(rows, network, given.tagger_sentences)


def ngrams(rows: dict[str, list[Row]], vocabulary: list[str]) -> None:
    """Perplexity by Kneser-Ney, in both directions."""
    number = {word: n for n, word in enumerate(vocabulary)}
    ids = {split: [[number.get(word, 0) for word in row["tokens"]] for row in some] for split, some in rows.items()}
    for order in ORDERS:
        for name, step in (("forward", 1), ("backward", -1)):
            train, test = ([sentence[::step] for sentence in ids[split]] for split in ("train", "test"))
            model = KneserNey(train, order=order, vocab_size=len(vocabulary), boundary=1)
            scores = [model.log_probabilities(sentence) for sentence in test]
            perplexity = math.exp(-sum(part.sum() for part in scores) / sum(len(part) for part in scores))
            print(f"Kneser-Ney, order {order}, {name}: perplexity {perplexity:.1f}")


def senses(rows: dict[str, list[Row]], network: Network, most: int = 6000, least: int = 20, near: int = 5) -> None:
    """Tags of ambiguous words, by the nearest occurrences of the same word."""
    draw = random.Random(0)
    some = {split: draw.sample(part, min(most, len(part))) for split, part in rows.items()}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in some["train"]:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            counts[word][tag] += 1
    ambiguous = {word for word, tags in counts.items() if len(tags) > 1 and tags.most_common(2)[1][1] >= least}
    train, test = (_occurrences(some[split], network, ambiguous) for split in ("train", "test"))
    right, usual, total = np.zeros(next(iter(test.values()))[0][0].shape[0]), 0, 0
    for word, found in test.items():
        if word not in train:
            continue
        keys_NJD, tags_N = torch.stack([v for v, _ in train[word]]), np.array([tag for _, tag in train[word]])
        asked_MJD = torch.stack([v for v, _ in found])
        keys_NJD, asked_MJD = F.normalize(keys_NJD, dim=-1), F.normalize(asked_MJD, dim=-1)
        frequent = Counter(tags_N.tolist()).most_common(1)[0][0]
        for layer in range(len(right)):
            nearest = (asked_MJD[:, layer] @ keys_NJD[:, layer].T).topk(min(near, len(tags_N))).indices
            guesses = [Counter(tags_N[row].tolist()).most_common(1)[0][0] for row in nearest.numpy()]
            right[layer] += sum(guess == tag for guess, (_, tag) in zip(guesses, found, strict=True))
        usual += sum(tag == frequent for _, tag in found)
        total += len(found)
    print(f"{len(ambiguous)} ambiguous words, {total} occurrences: most frequent tag {usual / total:.3f}")
    for layer, hits in enumerate(right):
        print(f"  nearest {near} by layer {layer}: {hits / total:.3f}" + " (static)" * (layer == 0))


def _occurrences(rows: list[Row], network: Network, words: set[str]) -> dict[str, list[tuple[Tensor, str]]]:
    found: dict[str, list[tuple[Tensor, str]]] = defaultdict(list)
    for at in range(0, len(rows), 500):
        part = [row for row in rows[at : at + 500] if words & set(row["tokens"])]
        for row, vectors in zip(part, network.vectors([row["tokens"] for row in part]), strict=True):
            for place, (word, tag) in enumerate(zip(row["tokens"], row["tags"], strict=True)):
                if word in words and len(found[word]) < 2000:
                    found[word].append((vectors[place].clone(), tag))
    return found


class Tagger(nn.Module):
    """Word embeddings, with or without a mix of given layers, one BiLSTM, a tag for each word."""

    def __init__(self, words: int, tags: int, layers: tuple[int, int] | None, size: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size, padding_idx=0)
        self.mix = ScalarMix(layers[0]) if layers else None
        self.lstm = nn.LSTM(size + (layers[1] if layers else 0), size, bidirectional=True, batch_first=True)
        self.dropout, self.tags = nn.Dropout(0.5), nn.Linear(2 * size, tags)

    def forward(self, words_BT: Tensor, layers_BTJD: Tensor | None) -> Tensor:
        x_BTD = self.embedding(words_BT)
        if self.mix is not None:
            x_BTD = torch.cat([x_BTD, self.mix(layers_BTJD)], -1)
        scores: Tensor = self.tags(self.dropout(self.lstm(self.dropout(x_BTD))[0]))
        return scores


def taggers(rows: dict[str, list[Row]], network: Network, count: int, seeds: int = 3) -> None:
    """The tagger with and without ELMo's layers."""
    draw = random.Random(1)
    train, test = draw.sample(rows["train"], count), draw.sample(rows["test"], min(1000, len(rows["test"])))
    words = {word: n for n, word in enumerate(dict.fromkeys(w for row in train for w in row["tokens"]), 2)}
    tags = {tag: n for n, tag in enumerate(sorted({tag for row in train for tag in row["tags"]}))}
    vectors = {split: network.vectors([row["tokens"] for row in part]) for split, part in (("a", train), ("b", test))}
    shape = (vectors["a"][0].shape[1], vectors["a"][0].shape[2])
    for layers in (None, shape):
        given = vectors if layers else None
        found = [_accuracy(train, test, words, tags, given, layers, seed) for seed in range(seeds)]
        name = "with ELMo's layers" if layers else "words alone"
        shown = ", ".join(f"{value:.4f}" for value in found)
        print(f"tagger of {count} sentences, {name}: accuracy {np.mean(found):.4f} ({shown})")


def _accuracy(
    train: list[Row], test: list[Row], words: dict[str, int], tags: dict[str, int], vectors: Any, layers: Any, seed: int
) -> float:
    torch.manual_seed(seed)
    model = Tagger(len(words) + 2, len(tags), layers)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def scored(rows: Sequence[Row], numbers: Sequence[int], split: str) -> tuple[Tensor, Tensor]:
        ids = pad_sequence([torch.tensor([words.get(w, 1) for w in rows[n]["tokens"]]) for n in numbers], True)
        known = [torch.tensor([tags.get(tag, -2) for tag in rows[n]["tags"]]) for n in numbers]
        given = pad_sequence([vectors[split][n] for n in numbers], True) if vectors else None
        return model(ids, given), pad_sequence(known, True, -1)

    for _ in range(12):
        for batch in torch.randperm(len(train)).split(32):
            scores, right = scored(train, batch.tolist(), "a")
            optimizer.zero_grad()
            F.cross_entropy(scores.flatten(0, 1), right.flatten(), ignore_index=-1).backward()
            optimizer.step()
    model.eval()
    hits = total = 0
    with torch.no_grad():
        for at in range(0, len(test), 100):
            scores, right = scored(test, range(at, min(at + 100, len(test))), "b")
            hits += int((scores.argmax(-1) == right).sum())
            total += int((right != -1).sum())
    return hits / total


if __name__ == "__main__":
    main()

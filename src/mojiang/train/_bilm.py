"""Bidirectional language models: sentences as numbers, and the loss of predicting each word from both its sides.

Tensor names: B sentences · T places, both ends of a sentence among them · W distinct words · N predictions ·
P size of a direction's states · V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.core.run import Run
from mojiang.model.elmo import SENTENCE_BEGIN, SENTENCE_END, spellings_of
from mojiang.model.network import Network
from mojiang.text._analysis import Analyzer, analyze_lot, read_lots
from mojiang.tokenizer._pack import IGNORE
from mojiang.train._batches import Examples, padded
from mojiang.train._losses import linear_cross_entropy
from mojiang.train._objective import Losses
from mojiang.train._supervised import Measured

Ints = NDArray[np.int64]
UNKNOWN, BOUNDARY = 0, 1
"""The first two of the vocabulary: any word that is not in it, and the end of a sentence, on either side."""


@dataclass
class Sentences:
    """The sentences of each split, as rows of the distinct words' table."""

    words: list[str] = field(default_factory=list)
    """All distinct words, the vocabulary first, by falling frequency."""
    known: int = 0
    """How many of them are in the vocabulary, and can be predicted."""
    splits: dict[str, list[Ints]] = field(default_factory=dict)
    cut: int = 0
    """Sentences that were longer than allowed and are several now."""

    @property
    def vocabulary(self) -> list[str]:
        """What can be predicted, by number."""
        return ["<unk>", "<s>", *self.words[: self.known]]

    def examples(self, split: str) -> Examples:
        """A split to train on or to measure."""
        return Examples({"words": self.splits[split]}, tokens="words")

    def unknown_share(self, split: str) -> float:
        """The share of a split's words that are not in the vocabulary."""
        rows = self.splits[split]
        unknown = sum(int((row >= self.known + 2).sum()) for row in rows)
        return unknown / max(1, sum(len(row) - 2 for row in rows))


def read_sentences(run: Run, analyzer: Analyzer, path: Path, min_count: int, most: int, longest: int) -> Sentences:
    """Every split's sentences. The vocabulary is the training split's most frequent words, `min_count` times or more.

    A sentence of more than `longest` words becomes several.

    Raises:
        BadInput: no word is that frequent.
    """
    found, numbers = Sentences(), dict[str, int]()
    for split in _splits(path):
        rows = found.splits.setdefault(split or "train", [])
        for texts in run.engine.map(partial(analyze_lot, analyzer), read_lots(path, split)):
            for sentence in (sentence for sentences in texts for sentence in sentences):
                found.cut += len(sentence) > longest
                ids = [numbers.setdefault(word, len(numbers)) for word in sentence]
                rows.extend(np.array(ids[at : at + longest]) for at in range(0, len(ids), longest))
            run.check_stop()
    empty: list[Ints] = [np.zeros(0, np.int64)]
    counts = np.bincount(np.concatenate(found.splits["train"] or empty), minlength=len(numbers))
    words = list(numbers)
    order = sorted(range(len(words)), key=lambda number: (-counts[number], words[number]))
    found.words, found.known = [words[number] for number in order], min(most, int((counts >= min_count).sum()))
    if not found.known:
        raise BadInput(
            f"no word of the training split occurs {min_count} times or more",
            hint="lower --min-count, or look at the texts with text.words",
        )
    place = np.empty(len(words), np.int64)
    place[order] = np.arange(2, len(words) + 2)
    for split, rows in found.splits.items():
        found.splits[split] = [np.concatenate([[SENTENCE_BEGIN], place[row], [SENTENCE_END]]) for row in rows]
    return found


def _splits(path: Path) -> Iterator[str | None]:
    """The splits that a dataset has, of which training is one; or none, and all of it is trained on."""
    there = [split for split in ("train", "validation", "test") if any((path / split).glob("*.parquet"))]
    yield from there if "train" in there else [None]


@dataclass
class BiLM(Measured):
    """Nats of each word, predicted from those before it and from those after it (Peters et al. 2018, section 3.1)."""

    spellings_WL: NDArray[np.int16]
    """The bytes of all distinct words, the two ends of a sentence first."""
    vocab_size: int
    validation: Examples | None = None
    weights = {"forward": 0.5, "backward": 0.5}

    @classmethod
    def over(cls, sentences: Sentences, validation: Examples | None) -> BiLM:
        """For these sentences."""
        return cls(spellings_of(sentences.words), sentences.known + 2, validation)

    def counts(self, batch: Examples) -> dict[str, float]:
        """Words and an end of each sentence, in each direction."""
        predicted = float(sum(len(row) - 1 for row in batch["words"]))
        return {"forward": predicted, "backward": predicted}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Nats of each direction."""
        words_BT, mask_BT, targets = self._inputs(batch, model.device)
        used_U, places_BT = torch.unique(words_BT, return_inverse=True)
        spellings_UL = torch.from_numpy(self.spellings_WL[used_U.cpu().numpy()].astype(np.int64))
        spellings_UL = spellings_UL[:, : int((spellings_UL != 0).sum(1).max())].to(model.device)
        hidden_BTP = model(places_BT, spellings_UL, mask_BT)[-1].to(model.compute_dtype).chunk(2, dim=-1)
        head = model.head
        return {
            name: linear_cross_entropy(states_BTP.flatten(0, 1), head.weight, targets_BT.flatten(), head.bias)
            for name, states_BTP, targets_BT in zip(self.weights, hidden_BTP, targets, strict=True)
        }

    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """The loss, and perplexity in each direction, the end of a sentence and unknown words counted."""
        nats = dict.fromkeys(self.weights, 0.0)
        with torch.no_grad():
            for rows in examples.micro(micro):
                for name, value in self.losses(model, examples.take(rows)).items():
                    nats[name] += float(value)
        counts = self.counts(examples)
        means = {name: nats[name] / max(1.0, counts[name]) for name in nats}
        figures = {"loss": sum(self.weights[name] * mean for name, mean in means.items())}
        return figures | {f"{name}_perplexity": math.exp(mean) for name, mean in means.items()}

    def _inputs(self, batch: Examples, device: Any) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Words and their mask (B, T); what each direction predicts at each place, `IGNORE` where nothing."""
        words: Sequence[Ints] = batch["words"]
        targets = [np.where(row < self.vocab_size, row, UNKNOWN) for row in words]
        for row in targets:
            row[[0, -1]] = BOUNDARY
        nothing = [IGNORE]
        longest = max(map(len, words))
        words_BT, spans_B3 = padded(words, SENTENCE_BEGIN, device)
        following_BT, _ = padded([np.concatenate([row[1:], nothing]) for row in targets], IGNORE, device)
        previous_BT, _ = padded([np.concatenate([nothing, row[:-1]]) for row in targets], IGNORE, device)
        mask_BT = torch.arange(longest, device=device) < spans_B3[:, 2:]
        # A recurrence takes one step after another: those of the padding cost as much as others.
        return words_BT[:, :longest], mask_BT, (following_BT[:, :longest], previous_BT[:, :longest])

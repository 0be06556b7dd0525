"""Labelling words: rows to examples, the loss (of each word, or of the whole row by a CRF), and how well it goes.

Tensor names: B rows · T positions · L words of the longest row · C labels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mojiang.core.errors import BadInput
from mojiang.model._crf import SCHEMES, illegal_transitions
from mojiang.model.bilstm_crf import BiLSTMCRF
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Examples, padded
from mojiang.train._classification import labels_of, number_labels, text_scores
from mojiang.train._objective import Losses
from mojiang.train._scores import entity_f1
from mojiang.train._supervised import Measured

Tagged = Mapping[str, Any]


def tags_of(rows: Sequence[Tagged]) -> list[str]:
    """The tags there are, sorted; `BadInput` if there are fewer than two."""
    return labels_of({"label": tag} for row in rows for tag in row["tags"])


def is_chunked(labels: Sequence[str]) -> bool:
    """Whether labels mark stretches of words (B-PER, I, O), not each word by itself (NOUN).

    >>> is_chunked(["B-PER", "I-PER", "O"]), is_chunked(["NOUN", "VERB"])
    (True, False)
    """
    letters = {label.partition("-")[0] for label in labels}
    return "B" in letters and letters <= set("BIMESO")


def scheme_of(labels: list[str], rows: Sequence[Tagged]) -> str | None:
    """The scheme that the tags keep to without exception, so that nothing else need ever be predicted."""
    numbers = {label: number for number, label in enumerate(labels)}
    for scheme in SCHEMES:
        try:
            first, pairs, last = illegal_transitions(labels, scheme)
        except BadInput:  # a label that is not of the scheme
            continue
        taken = [[numbers[tag] for tag in row["tags"]] for row in rows if row["tags"]]
        broken = any(first[row[0]] or last[row[-1]] or bool(pairs[row[:-1], row[1:]].any()) for row in taken)
        if not broken:
            return scheme
    return None


def encode_tagged(
    rows: Sequence[Tagged], labels: list[str], tokenizer: Tokenizer, context: int
) -> tuple[Examples, int]:
    """Tagged rows as examples, and how many lost words at their end to fit into `context` tokens.

    The first token of each word carries its label, the others `IGNORE` (Devlin et al. 2019, section 5.3).

    Raises:
        BadInput: a tag that training never saw, or rows without any word.
    """
    numbers = number_labels(({"label": tag} for row in rows for tag in row["tags"]), labels)
    starts = [0, *accumulate(len(row["tags"]) for row in rows)]
    room, shift, cut = context - tokenizer.frame_size(False), tokenizer.frame_start(False), 0
    columns: dict[str, list[NDArray[np.int64]]] = {"tokens": [], "segments": [], "targets": []}
    for row, start in zip(rows, starts, strict=False):
        ids, words = tokenizer.encode_words(row["tokens"])
        cut += len(ids) > room
        ids, words = ids[:room], words[:room]
        if not ids:
            continue
        tokens, segments = tokenizer.frame(ids)
        targets = np.full(len(tokens), IGNORE, np.int64)
        for at, word in enumerate(words):
            if at == 0 or word != words[at - 1]:
                targets[shift + at] = numbers[start + word]
        for name, values in (("tokens", tokens), ("segments", segments), ("targets", targets)):
            columns[name].append(np.array(values, np.int64))
    if not columns["tokens"]:
        raise BadInput("no row has a word that the tokenizer can read", hint="look at the tokenizer's report")
    return Examples(columns, tokens="tokens"), cut


@dataclass
class WordLabels(Measured):
    """Cross-entropy of each word's label; of a BiLSTM-CRF the likelihood of all labels of a row together."""

    labels: list[str]
    pad_id: int
    validation: Examples | None = None
    better: str = "higher"

    def counts(self, batch: Examples) -> dict[str, float]:
        """Labelled words."""
        return {"loss": float(sum((row != IGNORE).sum() for row in batch["targets"]))}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Nats of the right labels, summed."""
        return {"loss": self._loss(model, text_scores(model, batch, self.pad_id), batch)}

    def _loss(self, model: Network, scores_BTC: Tensor, batch: Examples) -> Tensor:
        targets_BT, spans_N3 = padded(batch["targets"], IGNORE, scores_BTC.device)
        if isinstance(model, BiLSTMCRF):
            return -model.log_likelihood(scores_BTC, targets_BT, spans_N3).sum()
        return F.cross_entropy(scores_BTC.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")

    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """F1 of entities (where tags mark such), share of words that are right, loss; of the words that are read."""
        predicted: list[list[str]] = [[] for _ in range(len(examples))]
        loss = 0.0
        with torch.no_grad():
            for rows in examples.micro(micro):
                part = examples.take(rows)
                scores_BTC = text_scores(model, part, self.pad_id)
                loss += float(self._loss(model, scores_BTC, part))
                for row, found in zip(rows, self._decode(model, scores_BTC, part), strict=True):
                    predicted[row] = [self.labels[number] for number in found]
        right = [[self.labels[number] for number in row[row != IGNORE]] for row in examples["targets"]]
        pairs = [(a, b) for one, other in zip(right, predicted, strict=True) for a, b in zip(one, other, strict=True)]
        figures = entity_f1(right, predicted) if is_chunked(self.labels) else {}
        accuracy = sum(a == b for a, b in pairs) / max(1, len(pairs))
        return figures | {"accuracy": accuracy, "loss": loss / max(1, len(pairs))}

    def _decode(self, model: Network, scores_BTC: Tensor, batch: Examples) -> list[list[int]]:
        """The best label of each word: by Viterbi over the words of a row, or each by itself."""
        words = [
            scores_TC[: len(row)][torch.from_numpy(row != IGNORE).to(scores_TC.device)]
            for scores_TC, row in zip(scores_BTC, batch["targets"], strict=True)
        ]
        if not isinstance(model, BiLSTMCRF):
            return [scores_LC.argmax(-1).tolist() for scores_LC in words]
        spans_N3 = torch.tensor([(n, 0, len(scores_LC)) for n, scores_LC in enumerate(words)], device=scores_BTC.device)
        best_BL = model.decode(pad_sequence(words, batch_first=True), spans_N3)
        return [row[: len(scores_LC)].tolist() for row, scores_LC in zip(best_BL, words, strict=True)]

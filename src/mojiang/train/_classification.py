"""Classifying texts: rows to examples, the loss, and how well it goes.

Tensor names: B texts · T positions · C labels
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model._encoder import TextEncoder
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Examples, padded
from mojiang.train._objective import Losses, Objective
from mojiang.train._scores import accuracy, confusion, macro_f1


def labels_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The labels there are, sorted.

    Raises:
        BadInput: there are fewer than two, so there is nothing to tell apart.
    """
    labels = sorted({str(row["label"]) for row in rows})
    if len(labels) < 2:
        raise BadInput(f"the training split has the labels {labels}", hint="a classifier needs at least two")
    return labels


def number_labels(rows: Iterable[Mapping[str, Any]], labels: list[str]) -> list[int]:
    """The number of each row's label.

    Raises:
        BadInput: a label that training never saw.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    given = [str(row["label"]) for row in rows]
    if unknown := sorted(set(given) - set(numbers)):
        raise BadInput(f"labels {unknown[:5]} are not in the training split", hint=f"it has {', '.join(labels[:20])}")
    return [numbers[label] for label in given]


def encode_texts(
    rows: list[dict[str, Any]], labels: list[str], tokenizer: Tokenizer, context: int
) -> tuple[Examples, int]:
    """Labelled texts (or pairs of texts) as examples, and how many had to be cut to `context` tokens."""
    tokens, segments, cut = [], [], 0
    for row in rows:
        ids, sides = tokenizer.encode_pair(row["text"], row.get("text_b"), context)
        cut += len(ids) == context
        tokens.append(np.array(ids, np.int64))
        segments.append(np.array(sides, np.int64))
    columns = {"tokens": tokens, "segments": segments, "label": np.array(number_labels(rows, labels), np.int64)}
    return Examples(columns, tokens="tokens"), cut


def text_scores(model: Network, batch: Examples, pad_id: int) -> Tensor:
    """Scores (B, C) of texts."""
    tokens_BT, spans_N3 = padded(batch["tokens"], pad_id, model.device)
    more = {}
    if isinstance(model, TextEncoder) and any(row.any() for row in batch["segments"]):
        more["segments_BT"] = padded(batch["segments"], 0, model.device)[0]
    hidden_BTD = model(tokens_BT, mask=spans_N3, **more)
    return model.scores(hidden_BTD, spans_N3).float()


@dataclass
class Classification(Objective):
    """Cross-entropy of labels; `scores` computes them from a batch, so texts and images share it."""

    scores: Any
    """(model, batch) → (B, C)."""
    num_labels: int
    validation: Examples | None = None
    label_smoothing: float = 0.0
    better: str = "higher"
    figures: dict[str, float] = field(default_factory=dict)

    def counts(self, batch: Examples) -> dict[str, float]:
        """Rows."""
        return {"loss": len(batch)}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Nats of the right labels, summed."""
        scores_BC = self.scores(model, batch)
        labels_B = torch.from_numpy(batch["label"]).to(scores_BC.device)
        smooth = self.label_smoothing if model.training else 0.0
        return {"loss": F.cross_entropy(scores_BC, labels_B, reduction="sum", label_smoothing=smooth)}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Accuracy, macro F1 and loss on the validation split."""
        if self.validation is None:
            return {}
        return {f"validation_{name}": value for name, value in self.measure(model, self.validation, micro).items()}

    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """Accuracy, macro F1 and loss on any split."""
        probabilities_BC = self.predict(model, examples, micro)
        right_B = examples["label"]
        counts = confusion(right_B, probabilities_BC.argmax(1), self.num_labels)
        nats = -np.log(np.maximum(probabilities_BC[np.arange(len(right_B)), right_B], 1e-30))
        return {"accuracy": accuracy(counts), "macro_f1": macro_f1(counts), "loss": float(nats.mean())}

    @torch.no_grad()
    def predict(self, model: Network, examples: Examples, micro: int) -> np.ndarray:
        """Probabilities of the labels, (B, C)."""
        found = np.zeros((len(examples), self.num_labels))
        for rows in examples.micro(micro):
            found[rows] = self.scores(model, examples.take(rows)).softmax(-1).double().cpu().numpy()
        return found

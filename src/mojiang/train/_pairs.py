"""Sources and targets: pairs to examples, the loss of writing the target, and how good what is written is.

Tensor names: B pairs · S source positions · T target positions · D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mojiang.core.errors import BadInput
from mojiang.generate._seq2seq import translate_tokens
from mojiang.model._seq2seq import Seq2Seq
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Examples, padded
from mojiang.train._losses import linear_cross_entropy
from mojiang.train._objective import Losses
from mojiang.train._scores import bleu, chrf, words
from mojiang.train._supervised import Measured


def framed(tokenizer: Tokenizer, text: str, end: int, most: int) -> tuple[list[int], bool]:
    """Ids of a text as the tokenizer frames it, ended by `end`, and whether its end was cut to fit into `most`."""
    ids = tokenizer.encode(text)
    room = most - tokenizer.frame_size(False) - 1
    tokens, _ = tokenizer.frame(ids[:room])
    return tokens if tokens[-1:] == [end] else [*tokens, end], len(ids) > room


def encode_pairs(
    rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, end: int, context: int, prefix: str = ""
) -> tuple[Examples, int]:
    """Pairs as examples (source, target), and how many lost an end to fit into `context` tokens a side."""
    columns: dict[str, list[Any]] = {"source": [], "target": [], "text": [], "both": []}
    cut = 0
    for row in rows:
        source, source_cut = framed(tokenizer, prefix + row["source"], end, context)
        target, target_cut = framed(tokenizer, row["target"], end, context)
        cut += source_cut or target_cut
        columns["source"].append(np.array(source, np.int64))
        columns["target"].append(np.array(target, np.int64))
        columns["text"].append(row["target"])
        columns["both"].append(np.zeros(len(source) + len(target), np.int8))  # what a pair costs
    if not columns["source"]:
        raise BadInput("there is no pair to train on", hint="look at the dataset's report")
    return Examples(columns, tokens="both"), cut


@dataclass
class Writing(Measured):
    """Cross-entropy of the target's tokens, given the source."""

    tokenizer: Tokenizer
    label_smoothing: float = 0.0
    written: int = 100
    """Rows of a split that are written out, greedily, when it is measured."""
    max_tokens: int = 128
    validation: Examples | None = None
    better: str = "lower"

    def counts(self, batch: Examples) -> dict[str, float]:
        """Target tokens, the end included."""
        return {"loss": float(sum(map(len, batch["target"])))}

    def losses(self, model: Seq2Seq, batch: Examples) -> Losses:  # type: ignore[override]
        """Nats of all target tokens."""
        pad_id = model.config.pad_token_id
        tokens_BS, sources_N3 = padded(batch["source"], pad_id, model.device)
        targets_BT, targets_N3 = padded(batch["target"], IGNORE, model.device)
        hidden_BTD = model(tokens_BS, model.shift_right(targets_BT), mask=sources_N3, target_mask=targets_N3)
        smooth = self.label_smoothing if model.training else 0.0
        hidden_ND, head = model.head_input(hidden_BTD).flatten(0, 1), model.head
        return {
            "loss": linear_cross_entropy(
                hidden_ND, head.weight, targets_BT.flatten(), head.bias, label_smoothing=smooth
            )
        }

    @torch.no_grad()
    def measure(self, model: Seq2Seq, examples: Examples, micro: int) -> dict[str, float]:  # type: ignore[override]
        """Nats per target token; BLEU (of words, in Chinese of characters) and chrF of what is written greedily."""
        nats = sum(float(self.losses(model, examples.take(rows))["loss"]) for rows in examples.micro(micro))
        figures = {"loss": nats / self.counts(examples)["loss"]}
        if self.written:
            some = examples.take(range(min(self.written, len(examples))))
            texts = self.write(model, some)
            right = list(some["text"])
            figures["bleu"] = bleu([words(text) for text in right], [words(text) for text in texts])
            figures["chrf"] = chrf(right, texts)
        return figures

    def write(self, model: Seq2Seq, examples: Examples) -> list[str]:
        """What the model writes for each source."""
        written = translate_tokens(model, [source.tolist() for source in examples["source"]], self.max_tokens)
        return [self.tokenizer.decode(tokens) for tokens in written]

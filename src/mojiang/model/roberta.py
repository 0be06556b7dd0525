"""RoBERTa (Liu et al. 2019): BERT trained longer, without a second task, with positions that begin after padding's.

Tensor names carry their shape: see `_encoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._encoder import ClassificationHead, Embeddings, TextEncoder
from mojiang.model._layers import Dropout, LayerNorm, Linear
from mojiang.model.bert import BertConfig, Dense, Layers


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The shape of a RoBERTa, in the words of its `config.json`."""

    MODEL_TYPE = "roberta"
    CLASSES: ClassVar[dict[str, str]] = {
        "masked_lm": "RobertaForMaskedLM",
        "sequence_classification": "RobertaForSequenceClassification",
        "token_classification": "RobertaForTokenClassification",
        "question_answering": "RobertaForQuestionAnswering",
        "embedding": "RobertaModel",
    }

    vocab_size: int = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def check(self) -> None:
        """Refuse what BERT refuses, and a config without a padding token."""
        super().check()
        if self.pad_token_id is None:
            raise BadInput("config.json has no pad_token_id", hint="RoBERTa's positions are counted from it")

    @property
    def first_position(self) -> int:
        """Row of the position table that a text begins with: padding's and those before it are passed over."""
        return (self.pad_token_id or 0) + 1

    @property
    def has_pooler(self) -> bool:
        """Only a model without a head may have a pooler."""
        return self.head == "embedding" and self.add_pooling_layer


class LMHead(nn.Module):
    """Dense layer, GELU, norm, and the table of word embeddings as projection."""

    def __init__(self, config: RobertaConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.decoder = Linear(config.hidden_size, config.vocab_size, bias=True)
        self.decoder.weight, self.decoder.bias = words, self.bias


class Roberta(TextEncoder):
    """RoBERTa with any of its heads. Positions given to it count from 0, as for every model here."""

    CONFIG = RobertaConfig
    other_heads = ("roberta.pooler.", "lm_head.", "classifier.", "qa_outputs.")
    prefix = "roberta"

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(
            config,
            embeddings=Embeddings(config, config.hidden_size, padding_position=config.pad_token_id),
            encoder=Layers(config),
            pooler=Dense(config.hidden_size, config.hidden_size, "tanh") if config.has_pooler else None,
        )
        if config.head == "masked_lm":
            self.lm_head = LMHead(config, self.trunk.embeddings.word_embeddings.weight)
        elif config.head == "sequence_classification":
            self.dropout, self.dropout_out = Dropout(config.head_dropout), Dropout(config.head_dropout)
            self.classifier = ClassificationHead(config.hidden_size, config.num_labels)

    def blocks(self) -> list[nn.Module]:
        """The layers, in order."""
        return list(self.trunk.encoder.layer)

    def count_positions(self, tokens_BT: Tensor) -> Tensor:
        """Padding keeps a position of its own, and is not counted (as in fairseq)."""
        text_BT = (tokens_BT != self.config.pad_token_id).long()
        positions_BT: Tensor = text_BT.cumsum(1) * text_BT + self.config.pad_token_id
        return positions_BT

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the vocabulary projection reads, from final hidden states (…, D)."""
        transformed: Tensor = self.lm_head.layer_norm(F.gelu(self.lm_head.dense(hidden)))
        return transformed

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection."""
        return self.lm_head.decoder if hasattr(self, "lm_head") else super().head

    def text_scores(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of texts."""
        first_ND = self.drop(self.dropout, self.first(hidden_BTD, mask), hidden_BTD, mask)
        dense_ND = torch.tanh(self.classifier.dense(first_ND))
        scores: Tensor = self.classifier.out_proj(self.drop(self.dropout_out, dense_ND, hidden_BTD, mask))
        return scores

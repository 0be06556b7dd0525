"""BERT (Devlin et al. 2019): an encoder trained to fill in masked tokens, and to tell which texts follow each other.

Its layers are also those of RoBERTa and ELECTRA. Tensor names carry their shape: see `_encoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mojiang.model._encoder import Embeddings, EncoderConfig, TextEncoder, self_attention
from mojiang.model._layers import Dropout, LayerNorm, Linear, activation


@dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """The shape of a BERT, in the words of its `config.json`."""

    MODEL_TYPE = "bert"
    CLASSES: ClassVar[dict[str, str]] = {
        "masked_lm": "BertForMaskedLM",
        "pretraining": "BertForPreTraining",
        "sequence_classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "question_answering": "BertForQuestionAnswering",
        "embedding": "BertModel",
    }

    classifier_dropout: float | None = None
    """Before a classifier; None: `hidden_dropout_prob`."""

    @property
    def head_dropout(self) -> float:
        """Dropout probability before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class SelfAttention(nn.Module):
    """The three projections and the attention between them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.key = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.value = Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self_attention(x_BTD, self.query, self.key, self.value, self.num_heads, mask)


class Residual(nn.Module):
    """A projection whose result is added to the residual stream, which is then normalised."""

    def __init__(self, config: EncoderConfig, num_inputs: int) -> None:
        super().__init__()
        self.dense = Linear(num_inputs, config.hidden_size, bias=True)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, y: Tensor, x_BTD: Tensor) -> Tensor:
        """Add the projection of `y` (B, T, inputs) to `x_BTD`."""
        out_BTD: Tensor = self.LayerNorm(x_BTD + self.dropout(self.dense(y)))
        return out_BTD


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config, config.hidden_size)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out_BTD: Tensor = self.output(self.self(x_BTD, mask), x_BTD)
        return out_BTD


class Dense(nn.Module):
    """A projection and its activation."""

    def __init__(self, num_inputs: int, num_outputs: int, name: str) -> None:
        super().__init__()
        self.dense = Linear(num_inputs, num_outputs, bias=True)
        self.activation = activation(name)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        return self.activation(self.dense(x))


class Block(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.output = Residual(config, config.intermediate_size)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        x_BTD = self.attention(x_BTD, mask)
        out_BTD: Tensor = self.output(self.intermediate(x_BTD), x_BTD)
        return out_BTD


class Layers(nn.Module):
    """What Hugging Face calls `encoder`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])


class Transform(nn.Module):
    """What the vocabulary projection reads: a dense layer, its activation and a norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.activation = activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        out: Tensor = self.LayerNorm(self.activation(self.dense(x)))
        return out


class Predictions(nn.Module):
    """The vocabulary projection: the table of word embeddings, with a bias of its own that files call `bias`."""

    def __init__(self, config: BertConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.transform = Transform(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size, bias=True)
        self.decoder.weight, self.decoder.bias = words, self.bias


class PretrainingHeads(nn.Module):
    """Masked words, and whether the second text follows the first."""

    def __init__(self, config: BertConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.predictions = Predictions(config, words)
        if config.head == "pretraining":
            self.seq_relationship = Linear(config.hidden_size, 2, bias=True)


class Bert(TextEncoder):
    """BERT with any of its heads.

    >>> model = Bert(BertConfig(64, 32, 2, 4, 48, head="masked_lm")).init_weights(seed=0)
    >>> hidden_BTD = model(torch.zeros(1, 5, dtype=torch.long))
    >>> tuple(model.logits(hidden_BTD[:, 2]).shape)
    (1, 64)
    """

    CONFIG = BertConfig
    other_heads = ("bert.pooler.", "cls.", "classifier.", "qa_outputs.")
    prefix = "bert"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(
            config,
            embeddings=Embeddings(config, config.hidden_size),
            encoder=Layers(config),
            pooler=Dense(config.hidden_size, config.hidden_size, "tanh") if config.has_pooler else None,
        )
        if config.head in ("masked_lm", "pretraining"):
            self.cls = PretrainingHeads(config, self.trunk.embeddings.word_embeddings.weight)
        elif config.head == "sequence_classification":
            self.dropout = Dropout(config.head_dropout)
            self.classifier = Linear(config.hidden_size, config.num_labels, bias=True)

    def blocks(self) -> list[nn.Module]:
        """The layers, in order."""
        return list(self.trunk.encoder.layer)

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the vocabulary projection reads, from final hidden states (…, D)."""
        transformed: Tensor = self.cls.predictions.transform(hidden)
        return transformed

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection."""
        return self.cls.predictions.decoder if hasattr(self, "cls") else super().head

    def text_scores(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of texts; when pre-training (N, 2): 0 that the second text follows, 1 that it does not."""
        pooled_ND = self.pooled(hidden_BTD, mask)
        if self.config.head == "pretraining":
            scores: Tensor = self.cls.seq_relationship(pooled_ND)
        else:
            scores = self.classifier(self.drop(self.dropout, pooled_ND, hidden_BTD, mask))
        return scores

"""ALBERT (Lan et al. 2020): one layer used at every depth, and word vectors smaller than hidden states.

Dropout in a shared layer drops the same activations at each depth, as recurrent networks do (Gal & Ghahramani 2016).

Tensor names carry their shape: see `_encoder.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mojiang.model._encoder import Embeddings, EncoderConfig, TextEncoder, self_attention
from mojiang.model._layers import Dropout, LayerNorm, Linear, activation


@dataclass(frozen=True)
class AlbertConfig(EncoderConfig):
    """The shape of an ALBERT, in the words of its `config.json`."""

    MODEL_TYPE = "albert"
    CLASSES: ClassVar[dict[str, str]] = {
        "masked_lm": "AlbertForMaskedLM",
        "pretraining": "AlbertForPreTraining",
        "sequence_classification": "AlbertForSequenceClassification",
        "token_classification": "AlbertForTokenClassification",
        "question_answering": "AlbertForQuestionAnswering",
        "embedding": "AlbertModel",
    }

    vocab_size: int = 30000
    hidden_size: int = 4096
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3
    embedding_size: int = 128
    num_hidden_groups: int = 1
    """Layers of one group share their weights; groups follow each other."""
    inner_group_num: int = 1
    """Different layers within a group, applied one after the other at each depth."""
    classifier_dropout_prob: float = 0.1

    @property
    def head_dropout(self) -> float:
        """Dropout probability before a classifier."""
        return self.classifier_dropout_prob


class Attention(nn.Module):
    """Self-attention, its output projection and the norm after it."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.num_heads, size = config.num_attention_heads, config.hidden_size
        self.query, self.key, self.value, self.dense = (Linear(size, size, bias=True) for _ in range(4))
        self.LayerNorm = LayerNorm(size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        y_BTD = self_attention(x_BTD, self.query, self.key, self.value, self.num_heads, mask)
        out_BTD: Tensor = self.LayerNorm(x_BTD + self.dropout(self.dense(y_BTD)))
        return out_BTD


class Block(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.ffn = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.ffn_output = Linear(config.intermediate_size, config.hidden_size, bias=True)
        self.full_layer_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.activation = activation(config.hidden_act)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        x_BTD = self.attention(x_BTD, mask)
        y_BTD = self.ffn_output(self.activation(self.ffn(x_BTD)))
        out_BTD: Tensor = self.full_layer_layer_norm(x_BTD + y_BTD)
        return out_BTD


class Group(nn.Module):
    """Different layers that are applied together."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList([Block(config) for _ in range(config.inner_group_num)])


class Layers(nn.Module):
    """What Hugging Face calls `encoder`."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.embedding_hidden_mapping_in = Linear(config.embedding_size, config.hidden_size, bias=True)
        self.albert_layer_groups = nn.ModuleList([Group(config) for _ in range(config.num_hidden_groups)])


class Pooler(Linear):
    """A dense layer over the first token's hidden state."""

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        return torch.tanh(super().forward(x_ND))


class Predictions(nn.Module):
    """A dense layer down to the size of word vectors, and the table of these as vocabulary projection."""

    def __init__(self, config: AlbertConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.LayerNorm = LayerNorm(config.embedding_size, config.layer_norm_eps)
        self.dense = Linear(config.hidden_size, config.embedding_size, bias=True)
        self.decoder = Linear(config.embedding_size, config.vocab_size, bias=True)
        self.decoder.weight, self.decoder.bias = words, self.bias
        self.activation = activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        """What `decoder` reads, from hidden states (…, D)."""
        out: Tensor = self.LayerNorm(self.activation(self.dense(hidden)))
        return out


class OrderHead(nn.Module):
    """Whether two consecutive texts are in their order."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.classifier_dropout_prob)
        self.classifier = Linear(config.hidden_size, 2, bias=True)


class Albert(TextEncoder):
    """ALBERT with any of its heads."""

    CONFIG = AlbertConfig
    other_heads = ("albert.pooler.", "predictions.", "sop_classifier.", "classifier.", "qa_outputs.")
    prefix = "albert"

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(
            config,
            embeddings=Embeddings(config, config.embedding_size),
            encoder=Layers(config),
            pooler=Pooler(config.hidden_size, config.hidden_size, bias=True) if config.has_pooler else None,
        )
        if config.head in ("masked_lm", "pretraining"):
            self.predictions = Predictions(config, self.trunk.embeddings.word_embeddings.weight)
        if config.head == "pretraining":
            self.sop_classifier = OrderHead(config)
        elif config.head == "sequence_classification":
            self.dropout = Dropout(config.head_dropout)
            self.classifier = Linear(config.hidden_size, config.num_labels, bias=True)

    def blocks(self) -> list[nn.Module]:
        """The different layers: fewer than there are depths."""
        return [block for group in self.trunk.encoder.albert_layer_groups for block in group.albert_layers]

    def sequence(self) -> Sequence[nn.Module]:
        """The layers in the order in which they are applied, each as often as it is."""
        groups, depths = self.trunk.encoder.albert_layer_groups, self.config.num_hidden_layers
        # The same arithmetic as in transformers, for a number of groups that does not divide the depth.
        order = [groups[int(depth / (depths / len(groups)))] for depth in range(depths)]
        return [block for group in order for block in group.albert_layers]

    def embed(self, tokens_BT: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None) -> Tensor:
        """Embeddings, projected up to the hidden size."""
        x_BTD: Tensor = self.trunk.encoder.embedding_hidden_mapping_in(
            super().embed(tokens_BT, positions_BT, segments_BT)
        )
        return x_BTD

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the vocabulary projection reads, from final hidden states (…, D): of the size of word vectors."""
        transformed: Tensor = self.predictions(hidden)
        return transformed

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection."""
        return self.predictions.decoder if hasattr(self, "predictions") else super().head

    def text_scores(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of texts; when pre-training of two texts being in order (0) or exchanged (1)."""
        pooled_ND = self.pooled(hidden_BTD, mask)
        if self.config.head == "pretraining":
            order = self.sop_classifier
            scores: Tensor = order.classifier(self.drop(order.dropout, pooled_ND, hidden_BTD, mask))
        else:
            scores = self.classifier(self.drop(self.dropout, pooled_ND, hidden_BTD, mask))
        return scores

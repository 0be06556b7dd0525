"""DistilBERT (Sanh et al. 2019): BERT with half the layers and no segments, made to be trained from BERT's own scores.

Tensor names carry their shape: see `_encoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mojiang.model._encoder import TextEncoder, check_heads, check_tied, self_attention
from mojiang.model._layers import Dropout, Embedding, LayerNorm, Linear, activation
from mojiang.model._positions import sinusoidal_table
from mojiang.model.network import HFConfig

EPS = 1e-12
"""Of every norm; DistilBERT's config does not say."""


@dataclass(frozen=True)
class DistilBertConfig(HFConfig):
    """The shape of a DistilBERT, in the words of its `config.json`."""

    MODEL_TYPE = "distilbert"
    CLASSES: ClassVar[dict[str, str]] = {
        "masked_lm": "DistilBertForMaskedLM",
        "sequence_classification": "DistilBertForSequenceClassification",
        "token_classification": "DistilBertForTokenClassification",
        "question_answering": "DistilBertForQuestionAnswering",
        "embedding": "DistilBertModel",
    }

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    """Positions begin as sines and cosines; they are trained all the same."""
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    """Kept for other readers: attention weights are never materialised here, so that they cannot be dropped."""
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Refuse an untied vocabulary and unknown activations."""
        activation(self.activation)
        check_heads(self.dim, self.n_heads)
        check_tied(self)

    @property
    def hidden_size(self) -> int:
        """What other families call `dim`."""
        return self.dim

    @property
    def first_position(self) -> int:
        """Row of the position table that a text begins with."""
        return 0

    @property
    def head_dropout(self) -> float:
        """Dropout probability before a classifier of tokens."""
        return self.dropout

    @property
    def span_dropout(self) -> float:
        """Dropout probability before the start and end scores of extractive question answering."""
        return self.qa_dropout


class Embeddings(nn.Module):
    """Word and position embeddings, summed and normalised in fp32."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.dim)
        self.LayerNorm = LayerNorm(config.dim, EPS)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
        """(B, T, D). Segments are passed over: DistilBERT has none."""
        x_BTD = self.word_embeddings(tokens_BT) + self.position_embeddings(positions_BT)
        out_BTD: Tensor = self.dropout(self.LayerNorm(x_BTD))
        return out_BTD


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.num_heads = config.n_heads
        self.q_lin, self.k_lin, self.v_lin, self.out_lin = (Linear(config.dim, config.dim, bias=True) for _ in range(4))

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out_BTD: Tensor = self.out_lin(self_attention(x_BTD, self.q_lin, self.k_lin, self.v_lin, self.num_heads, mask))
        return out_BTD


class FeedForward(nn.Module):
    """Two projections with an activation between them."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.lin1 = Linear(config.dim, config.hidden_dim, bias=True)
        self.lin2 = Linear(config.hidden_dim, config.dim, bias=True)
        self.activation, self.dropout = activation(config.activation), Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out_BTD: Tensor = self.dropout(self.lin2(self.activation(self.lin1(x_BTD))))
        return out_BTD


class Block(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.sa_layer_norm = LayerNorm(config.dim, EPS)
        self.ffn = FeedForward(config)
        self.output_layer_norm = LayerNorm(config.dim, EPS)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        x_BTD = self.sa_layer_norm(x_BTD + self.attention(x_BTD, mask))
        out_BTD: Tensor = self.output_layer_norm(x_BTD + self.ffn(x_BTD))
        return out_BTD


class Layers(nn.Module):
    """What Hugging Face calls `transformer`."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Block(config) for _ in range(config.n_layers)])


class DistilBert(TextEncoder):
    """DistilBERT with any of its heads."""

    CONFIG = DistilBertConfig
    other_heads = ("vocab_", "pre_classifier.", "classifier.", "qa_outputs.")
    prefix = "distilbert"

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, embeddings=Embeddings(config), transformer=Layers(config))
        if config.head == "masked_lm":
            self.vocab_transform = Linear(config.dim, config.dim, bias=True)
            self.vocab_layer_norm = LayerNorm(config.dim, EPS)
            self.vocab_projector = Linear(config.dim, config.vocab_size, bias=True)
            self.vocab_projector.weight = self.trunk.embeddings.word_embeddings.weight
        elif config.head == "sequence_classification":
            self.dropout = Dropout(config.seq_classif_dropout)
            self.pre_classifier = Linear(config.dim, config.dim, bias=True)
            self.classifier = Linear(config.dim, config.num_labels, bias=True)

    def blocks(self) -> list[nn.Module]:
        """The layers, in order."""
        return list(self.trunk.transformer.layer)

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the vocabulary projection reads, from final hidden states (…, D)."""
        dense = activation(self.config.activation)(self.vocab_transform(hidden))
        transformed: Tensor = self.vocab_layer_norm(dense)
        return transformed

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection."""
        return self.vocab_projector if hasattr(self, "vocab_projector") else super().head

    def text_scores(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of texts."""
        dense_ND = torch.relu(self.pre_classifier(self.first(hidden_BTD, mask)))
        scores: Tensor = self.classifier(self.drop(self.dropout, dense_ND, hidden_BTD, mask))
        return scores

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As in every encoder; positions as sines and cosines if the config says so."""
        if self.config.sinusoidal_pos_embds and name.endswith("position_embeddings.weight"):
            parameter.copy_(sinusoidal_table(len(parameter), self.config.dim, interleaved=True))
        else:
            super().init_parameter(name, parameter, generator)

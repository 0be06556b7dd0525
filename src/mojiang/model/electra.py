"""ELECTRA (Clark et al. 2020): a generator replaces masked tokens, the model learns to tell which were replaced.

Generator (`masked_lm`) and discriminator (`pretraining`) are two networks of this class. When they are trained together
they share their embeddings: `share_embeddings`. Tensor names carry their shape: see `_encoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._encoder import ClassificationHead, Embeddings, TextEncoder
from mojiang.model._layers import Dropout, LayerNorm, Linear, activation
from mojiang.model.bert import BertConfig, Layers


@dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """The shape of an ELECTRA, in the words of its `config.json`."""

    MODEL_TYPE = "electra"
    CLASSES: ClassVar[dict[str, str]] = {
        "masked_lm": "ElectraForMaskedLM",
        "pretraining": "ElectraForPreTraining",
        "sequence_classification": "ElectraForSequenceClassification",
        "token_classification": "ElectraForTokenClassification",
        "question_answering": "ElectraForQuestionAnswering",
        "embedding": "ElectraModel",
    }

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = 128

    @property
    def has_pooler(self) -> bool:
        """ELECTRA has no pooler: it predicts no second text."""
        return False


class GeneratorPredictions(nn.Module):
    """What the vocabulary projection reads: a dense layer down to the size of word vectors, GELU and a norm."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.LayerNorm = LayerNorm(config.embedding_size, config.layer_norm_eps)
        self.dense = Linear(config.hidden_size, config.embedding_size, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, embedding size)."""
        out: Tensor = self.LayerNorm(F.gelu(self.dense(hidden)))
        return out


class DiscriminatorPredictions(nn.Module):
    """Whether each token was replaced."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.dense_prediction = Linear(config.hidden_size, 1, bias=True)
        self.activation = activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…)."""
        scores: Tensor = self.dense_prediction(self.activation(self.dense(hidden))).squeeze(-1)
        return scores


class Electra(TextEncoder):
    """ELECTRA with any of its heads."""

    CONFIG = ElectraConfig
    other_heads = ("generator_", "discriminator_predictions.", "classifier.", "qa_outputs.")
    prefix = "electra"

    def __init__(self, config: ElectraConfig) -> None:
        project = config.embedding_size != config.hidden_size
        super().__init__(
            config,
            embeddings=Embeddings(config, config.embedding_size),
            embeddings_project=Linear(config.embedding_size, config.hidden_size, bias=True) if project else None,
            encoder=Layers(config),
        )
        if config.head == "masked_lm":
            self.generator_predictions = GeneratorPredictions(config)
            self.generator_lm_head = Linear(config.embedding_size, config.vocab_size, bias=True)
            self.generator_lm_head.weight = self.trunk.embeddings.word_embeddings.weight
        elif config.head == "pretraining":
            self.discriminator_predictions = DiscriminatorPredictions(config)
        elif config.head == "sequence_classification":
            self.dropout, self.dropout_out = Dropout(config.head_dropout), Dropout(config.head_dropout)
            self.classifier = ClassificationHead(config.hidden_size, config.num_labels)

    def share_embeddings(self, generator: Electra) -> None:
        """Make the generator's embeddings this network's own, as the paper trains them.

        Raises:
            BadInput: the two are of another shape.
        """
        ours, theirs = self.trunk.embeddings, generator.trunk.embeddings
        for name, parameter in ours.named_parameters():
            module, _, kind = name.rpartition(".")
            shape = tuple(theirs.get_parameter(name).shape)
            if shape != tuple(parameter.shape):
                raise BadInput(
                    f"{name} is {shape} in the generator and {tuple(parameter.shape)} in the discriminator",
                    hint="generator and discriminator need the same vocabulary and embedding_size",
                )
            setattr(theirs.get_submodule(module), kind, parameter)
        generator.head.weight = ours.word_embeddings.weight

    def blocks(self) -> list[nn.Module]:
        """The layers, in order."""
        return list(self.trunk.encoder.layer)

    def embed(self, tokens_BT: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None) -> Tensor:
        """Embeddings, projected to the hidden size if that is another."""
        x = super().embed(tokens_BT, positions_BT, segments_BT)
        project: Any = getattr(self.trunk, "embeddings_project", None)
        return x if project is None else project(x)

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the generator's vocabulary projection reads, from final hidden states (…, D)."""
        transformed: Tensor = self.generator_predictions(hidden)
        return transformed

    @property
    def head(self) -> nn.Linear:
        """The generator's vocabulary projection."""
        return self.generator_lm_head if hasattr(self, "generator_lm_head") else super().head

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """As for every encoder; of the discriminator (B, T): positive where a token seems to be replaced."""
        if self.config.head == "pretraining":
            replaced_BT: Tensor = self.discriminator_predictions(hidden_BTD)
            return replaced_BT
        return super().scores(hidden_BTD, mask)

    def text_scores(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of texts."""
        first_ND = self.drop(self.dropout, self.first(hidden_BTD, mask), hidden_BTD, mask)
        dense_ND = F.gelu(self.classifier.dense(first_ND))
        scores: Tensor = self.classifier.out_proj(self.drop(self.dropout_out, dense_ND, hidden_BTD, mask))
        return scores

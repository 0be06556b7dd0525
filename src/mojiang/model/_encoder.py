"""What the bidirectional encoders (BERT and its descendants, ViT) share: attention, pooling, heads and how they begin.

A family's own file says what its layers are called and how they are composed.

Tensor names carry their shape:
    B rows · T positions · D hidden size · N texts (spans) · C classes · H heads · E head dimension
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._attention import attend
from mojiang.model._layers import Dropout, Embedding, LayerNorm, Linear, activation
from mojiang.model.network import Head, HFConfig, Network


@dataclass(frozen=True)
class EncoderConfig(HFConfig):
    """What BERT, RoBERTa, ALBERT and ELECTRA have in common, with BERT's defaults.

    `attention_probs_dropout_prob` is kept for other readers: attention weights are never materialised here, so that
    they cannot be dropped. `add_pooling_layer` is the argument that `transformers` calls so: whether a model without a
    head has the pooler.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True
    add_pooling_layer: bool = True

    def check(self) -> None:
        """Refuse decoders, relative positions, untied vocabularies and unknown activations."""
        activation(self.hidden_act)
        check_heads(self.hidden_size, self.num_attention_heads)
        check_tied(self)
        if self.extra.get("is_decoder") or self.extra.get("add_cross_attention"):
            raise BadInput(
                f"config.json asks for a decoder; this {self.MODEL_TYPE} is an encoder", hint="set is_decoder to false"
            )
        positions = self.extra.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise BadInput(
                f"position_embedding_type is {positions!r} in config.json",
                hint="only learned absolute positions are computed",
            )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json`; `add_pooling_layer` is in it only where it says no."""
        config = super().to_hf()
        return {key: value for key, value in config.items() if key != "add_pooling_layer" or not value}

    @property
    def has_pooler(self) -> bool:
        """Whether a dense layer over the first token is among the weights without a head."""
        if self.head == "embedding":
            return self.add_pooling_layer
        return self.head in ("pretraining", "sequence_classification")

    @property
    def first_position(self) -> int:
        """Row of the position table that a text begins with."""
        return 0

    @property
    def head_dropout(self) -> float:
        """Dropout probability before a classifier."""
        return self.hidden_dropout_prob

    @property
    def span_dropout(self) -> float:
        """Dropout probability before the start and end scores of extractive question answering."""
        return 0.0


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise `BadInput` if the heads do not divide the hidden size."""
    if hidden_size % num_heads:
        raise BadInput(
            f"the hidden size {hidden_size} is no multiple of the {num_heads} attention heads",
            hint="config.json must come from the same model as the weights",
        )


def check_tied(config: Any) -> None:
    """Raise `BadInput` if a vocabulary projection is to be a matrix of its own."""
    if not config.tie_word_embeddings and config.head in ("masked_lm", "pretraining"):
        raise BadInput(
            "tie_word_embeddings is false in config.json",
            hint="the vocabulary projection of these encoders is the table of word embeddings",
        )


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised in fp32."""

    def __init__(self, config: EncoderConfig, size: int, padding_position: int | None = None) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, size, padding_idx=padding_position)
        self.token_type_embeddings = Embedding(config.type_vocab_size, size)
        self.LayerNorm = LayerNorm(size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
        """(B, T, size). A family with one segment type passes over `segments_BT`."""
        x = self.word_embeddings(tokens_BT) + self.position_embeddings(positions_BT)
        if segments_BT is None or self.token_type_embeddings.num_embeddings == 1:
            x = x + self.token_type_embeddings.weight[0]
        else:
            x = x + self.token_type_embeddings(segments_BT)
        out: Tensor = self.dropout(self.LayerNorm(x))
        return out


def self_attention(
    x_BTD: Tensor, query: nn.Module, key: nn.Module, value: nn.Module, num_heads: int, mask: Tensor | None
) -> Tensor:
    """Bidirectional attention of `x_BTD` to itself through three projections, before the output projection."""
    B, T, _ = x_BTD.shape
    q_BHTE, k_BHTE, v_BHTE = (p(x_BTD).view(B, T, num_heads, -1).transpose(1, 2) for p in (query, key, value))
    return attend(q_BHTE, k_BHTE, v_BHTE, mask, causal=False).transpose(1, 2).reshape(B, T, -1)


def first_positions(mask: Tensor | None, num_rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and position of each text's first token, (N,) both.

    With spans there is one text per span that is not empty, in the order of the spans; otherwise one per row.

    >>> first_positions(torch.tensor([[0, 0, 3], [0, 3, 5], [1, 2, 2]]), 2, torch.device("cpu"))
    (tensor([0, 0]), tensor([0, 3]))
    """
    if mask is None or mask.dtype == torch.bool:
        rows_N = torch.arange(num_rows, device=device)
        return rows_N, torch.zeros_like(rows_N)
    rows_N, starts_N, _ = mask[mask[:, 1] < mask[:, 2]].unbind(1)
    return rows_N, starts_N


class ClassificationHead(nn.Module):
    """Dense layer, activation and projection over pooled vectors (RoBERTa, ELECTRA)."""

    def __init__(self, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size, bias=True)
        self.out_proj = Linear(hidden_size, num_labels, bias=True)


class Encoder(Network):
    """What text and image encoders have in common: a trunk, perhaps with a pooler, and a head.

    Texts of one row that a mask gives as spans are pooled one by one; otherwise each row is one text (or image).
    """

    config: Any
    CONFIG: ClassVar[type[HFConfig]]

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "embedding", num_labels: int | None = None) -> Self:
        """A network with arbitrary weights, of the shape that a `config.json` gives.

        Raises:
            BadInput: the config asks for something this architecture does not compute.
        """
        return cls(cls.CONFIG.from_hf(config, head, num_labels))

    def __init__(self, config: Any, **parts: nn.Module | None) -> None:
        """`parts` are what the network has without its head: `embeddings`, the layers, `pooler`."""
        super().__init__()
        self.config = config
        trunk = nn.Module()
        for name, part in parts.items():
            if part is not None:
                trunk.add_module(name, part)
        self.add_module(self.prefix, trunk)

    @property
    def trunk(self) -> Any:
        """What holds the weights without the head, under `prefix`."""
        return getattr(self, self.prefix)

    def first(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden state of each text's first token, (N, D): one text per non-empty span, or per row without spans."""
        return hidden_BTD[first_positions(mask, len(hidden_BTD), hidden_BTD.device)]

    def pooled(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """`first` through the pooler, where the network has one."""
        pooled_ND: Tensor = self.trunk.pooler(self.first(hidden_BTD, mask))
        return pooled_ND

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Matrices from a normal distribution cut at two deviations (Devlin et al. 2019); norms 1, biases 0."""
        if parameter.dim() < 2:
            super().init_parameter(name, parameter, generator)
        else:
            std, drawn = self.config.initializer_range, torch.empty(parameter.shape, device="cpu")
            parameter.copy_(nn.init.trunc_normal_(drawn, std=std, a=-2 * std, b=2 * std, generator=generator))

    def head_names(self) -> set[str]:
        """Names outside `prefix`, and the pooler's: it is trained with the head, and not every checkpoint has it."""
        pooler = f"{self.prefix}.pooler."
        return super().head_names() | {name for name in self.state_dict() if name.startswith(pooler)}

    def legacy_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official checkpoints under today's names: they call a norm's weights gamma and beta, and number positions.

        A file of a model without a head may lack the pooler; this network then loses its own.
        """
        pooled = any(name.startswith(f"{self.prefix}.pooler.") for name in state)
        if self.config.head == "embedding" and hasattr(self.trunk, "pooler") and not pooled:
            del self.trunk.pooler
            self.config = replace(self.config, add_pooling_layer=False)
        return {
            name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): tensor
            for name, tensor in state.items()
            if not name.endswith(("position_ids", "token_type_ids"))
        }


class TextEncoder(Encoder):
    """A bidirectional encoder of text with a head.

    Call it for the hidden states; then `logits` for the vocabulary or `scores` for a task. Texts of one row that `mask`
    gives as spans do not see each other, and have the hidden states that each has alone if `positions_BT` begins again
    with each.
    """

    def __init__(self, config: Any, **parts: nn.Module | None) -> None:
        super().__init__(config, **parts)
        if config.head == "token_classification":
            self.dropout = Dropout(config.head_dropout)
            self.classifier: Any = Linear(config.hidden_size, config.num_labels, bias=True)
        elif config.head == "question_answering":
            self.dropout = Dropout(config.span_dropout)
            self.qa_outputs = Linear(config.hidden_size, 2, bias=True)

    def sequence(self) -> Sequence[nn.Module]:
        """The blocks in the order in which they are applied."""
        return self.blocks()

    def count_positions(self, tokens_BT: Tensor) -> Tensor:
        """The rows of the position table for texts that begin each row, broadcastable to (B, T)."""
        return torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]

    def embed(self, tokens_BT: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None) -> Tensor:
        """What the first block reads, (B, T, D) in `compute_dtype`."""
        if positions_BT is not None:
            positions_BT = positions_BT + self.config.first_position
        else:
            num_tokens, limit = tokens_BT.shape[1], self.config.max_position_embeddings - self.config.first_position
            if num_tokens > limit:
                raise BadInput(
                    f"a text has {num_tokens} tokens; this model has {limit} positions", hint="cut texts into pieces"
                )
            positions_BT = self.count_positions(tokens_BT)
        x_BTD: Tensor = self.trunk.embeddings(tokens_BT, positions_BT, segments_BT)
        return x_BTD.to(self.compute_dtype)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, D).

        Args:
            tokens_BT: token numbers.
            positions_BT: position of each token in its text; None: the position in the row.
            mask: which tokens see each other, as for `attend`: boolean (B, 1, 1, T) or spans (N, 3); None: all.
            segments_BT: 0 or 1, the first or second text of a pair; None: all 0.
        """
        x_BTD = self.embed(tokens_BT, positions_BT, segments_BT)
        for block in self.sequence():
            x_BTD = block(x_BTD, mask)
        return x_BTD

    def drop(self, dropout: Dropout, pooled_ND: Tensor, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Dropout of pooled vectors: what a text loses is what its first position in the row would lose."""
        if not self.training:
            return pooled_ND
        scales_BTD = dropout(torch.ones_like(hidden_BTD))
        scales_ND: Tensor = scales_BTD[first_positions(mask, len(hidden_BTD), hidden_BTD.device)]
        return pooled_ND * scales_ND

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the task, from final hidden states and the mask that they were computed with.

        (N, C) of texts: one per non-empty span in the order of the spans, or one per row if there are no spans;
        (B, T, C) for token classification, (B, T, 2) of starts and ends for question answering.
        """
        if self.config.head == "token_classification":
            scores: Tensor = self.classifier(self.dropout(hidden_BTD))
        elif self.config.head == "question_answering":
            scores = self.qa_outputs(self.dropout(hidden_BTD))
        elif self.config.head in ("sequence_classification", "pretraining"):
            scores = self.text_scores(hidden_BTD, mask)
        else:
            raise TypeError(f"{type(self).__name__} with head {self.config.head!r} gives no scores")
        return scores

    def text_scores(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of whole texts."""
        raise TypeError(f"{type(self).__name__} does not say how it scores a text")

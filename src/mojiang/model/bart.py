"""BART (Lewis et al. 2020): post-norm encoder–decoder with learned positions.

Dropout is applied where `transformers` does, except to attention weights.

Tensor names: B rows of the source · R rows of the target · S source positions · T target positions · D hidden size
H heads · E head dimension · V vocabulary
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, Embedding, LayerNorm, Linear, activation
from mojiang.model._seq2seq import (
    BiasedHead,
    ClassificationHead,
    DecoderCache,
    LayerCache,
    Seq2Seq,
    attend_self,
    attend_source,
    cross_mask,
    merge_heads,
    split_heads,
)
from mojiang.model.network import Head, HFConfig

OFFSET = 2
"""The learned table's first two rows are unused, a left-over of fairseq's padding symbol."""
NORM_EPS = 1e-5
UNUSED = (
    "lm_head.", "final_logits_bias", "classification_head.", "qa_outputs.", "model.encoder.version",
    "model.decoder.version", "model.encoder.embed_positions.", "model.decoder.embed_positions.",
)  # fmt: skip
"""How names begin that a checkpoint may hold and a network of the family need not: other heads, left-overs."""


@dataclass(frozen=True)
class Seq2SeqShape(HFConfig):
    """What the configs of BART and Marian have in common, in the words of `config.json`."""

    head: Head = field(default="seq2seq_lm", kw_only=True)
    vocab_size: int = 50_265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] = 2
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | list[int] | None = 2

    def check(self) -> None:
        """Raise `BadInput` for what is not computed: pre-norm, layer drop, unknown activations."""
        not_computed = ("normalize_before", "add_final_layer_norm", "encoder_layerdrop", "decoder_layerdrop")
        if asked := [name for name in not_computed if self.extra.get(name)]:
            raise BadInput(
                f"config.json asks for {', '.join(f'{name}={self.extra[name]}' for name in asked)}",
                hint="computed are post-norm layers, none of which is dropped",
            )
        activation(self.activation_function)

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied by."""
        return math.sqrt(self.d_model) if self.scale_embedding else 1.0


@dataclass(frozen=True)
class BartConfig(Seq2SeqShape):
    """The shape of a BART, in the words of its `config.json`."""

    MODEL_TYPE: ClassVar[str] = "bart"
    CLASSES: ClassVar[dict[str, str]] = {
        "seq2seq_lm": "BartForConditionalGeneration",
        "sequence_classification": "BartForSequenceClassification",
        "question_answering": "BartForQuestionAnswering",
    }

    classifier_dropout: float = 0.0

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "seq2seq_lm", num_labels: int | None = None) -> Self:
        """See `HFConfig.from_hf`. BART's default number of labels is 3 (natural language inference)."""
        known = config.get("num_labels") or config.get("id2label")
        default = 2 if head == "question_answering" else None if known else 3
        return super().from_hf(config, head, num_labels or default)

    def check(self) -> None:
        """Raise `BadInput` for what is not computed."""
        super().check()
        if not self.tie_word_embeddings:
            raise BadInput("config.json asks for tie_word_embeddings=false", hint="a BART has one embedding")


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, size: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.causal, self.head_dim = causal, size // num_heads
        self.q_proj = Linear(size, size, bias=True)
        self.k_proj = Linear(size, size, bias=True)
        self.v_proj = Linear(size, size, bias=True)
        self.out_proj = Linear(size, size, bias=True)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, E)."""
        return split_heads(self.k_proj(x_BTD), self.head_dim), split_heads(self.v_proj(x_BTD), self.head_dim)

    def to_self(self, x_BTD: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """Attention over the same positions."""
        q_BHTE, (k_BHTE, v_BHTE) = split_heads(self.q_proj(x_BTD), self.head_dim), self.project(x_BTD)
        y_BHTE = attend_self(q_BHTE, k_BHTE, v_BHTE, mask, cache, causal=self.causal)
        out_BTD: Tensor = self.out_proj(merge_heads(y_BHTE))
        return out_BTD

    def to_memory(self, x_RTD: Tensor, memory_BSD: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """Attention over the encoder's states."""
        q_RHTE = split_heads(self.q_proj(x_RTD), self.head_dim)
        y_RHTE = attend_source(q_RHTE, lambda: self.project(memory_BSD), mask, cache)
        out_RTD: Tensor = self.out_proj(merge_heads(y_RHTE))
        return out_RTD


class Layer(nn.Module):
    """One layer: each part's output is added to its input, then normed. Only the decoder's attend to the memory."""

    def __init__(self, config: Seq2SeqShape, decoder: bool) -> None:
        super().__init__()
        size = config.d_model
        heads = config.decoder_attention_heads if decoder else config.encoder_attention_heads
        inner = config.decoder_ffn_dim if decoder else config.encoder_ffn_dim
        self.self_attn = Attention(size, heads, causal=decoder)
        self.self_attn_layer_norm = LayerNorm(size, NORM_EPS)
        self.self_attn_dropout = Dropout(config.dropout)
        if decoder:
            self.encoder_attn = Attention(size, heads, causal=False)
            self.encoder_attn_layer_norm = LayerNorm(size, NORM_EPS)
            self.encoder_attn_dropout = Dropout(config.dropout)
        self.fc1 = Linear(size, inner, bias=True)
        self.fc2 = Linear(inner, size, bias=True)
        self.activation = activation(config.activation_function)
        self.activation_dropout = Dropout(config.activation_dropout)
        self.dropout = Dropout(config.dropout)
        self.final_layer_norm = LayerNorm(size, NORM_EPS)

    def forward(
        self,
        x_BTD: Tensor,
        mask: Tensor | None,
        memory_BSD: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        attended_BTD = self.self_attn_dropout(self.self_attn.to_self(x_BTD, mask, cache))
        x_BTD = self.self_attn_layer_norm(x_BTD + attended_BTD)
        if memory_BSD is not None:
            attended_BTD = self.encoder_attn.to_memory(x_BTD, memory_BSD, memory_mask, cache)
            x_BTD = self.encoder_attn_layer_norm(x_BTD + self.encoder_attn_dropout(attended_BTD))
        inner_BTF = self.activation_dropout(self.activation(self.fc1(x_BTD)))
        out_BTD: Tensor = self.final_layer_norm(x_BTD + self.dropout(self.fc2(inner_BTF)))
        return out_BTD


class Stack(nn.Module):
    """The layers of one side, and what stands in front of them."""

    def __init__(self, config: Seq2SeqShape, decoder: bool) -> None:
        super().__init__()
        layers = config.decoder_layers if decoder else config.encoder_layers
        self.embed_positions = Embedding(config.max_position_embeddings + OFFSET, config.d_model)
        self.layers = nn.ModuleList([Layer(config, decoder) for _ in range(layers)])
        self.layernorm_embedding = LayerNorm(config.d_model, NORM_EPS)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        mask: Tensor | None,
        memory_BSD: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Final states (B, T, D) for the vectors of tokens."""
        x_BTD = self.layernorm_embedding(x_BTD + self.embed_positions(positions_BT + OFFSET, x_BTD.dtype))
        return run_layers(self.layers, self.dropout(x_BTD), mask, memory_BSD, memory_mask, cache)


def run_layers(
    layers: nn.ModuleList,
    x_BTD: Tensor,
    mask: Tensor | None,
    memory_BSD: Tensor | None,
    memory_mask: Tensor | None,
    cache: DecoderCache | None,
) -> Tensor:
    """One layer after the other."""
    for number, layer in enumerate(layers):
        x_BTD = layer(x_BTD, mask, memory_BSD, memory_mask, None if cache is None else cache.layer(number))
    return x_BTD


class Stacks(nn.Module):
    """Both sides and the embedding they share: what Hugging Face calls `model.*`."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.shared = Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)

    def tables(self) -> tuple[Embedding, Embedding]:
        """The token embeddings of the encoder and of the decoder."""
        return self.shared, self.shared


class Bart(Seq2Seq):
    """A BART for text to text, or with a classification or question-answering head.

    >>> shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    >>> model = Bart(BartConfig(vocab_size=64, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, **shape))
    >>> hidden_BTD = model.init_weights(0)(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))
    >>> tuple(hidden_BTD.shape)
    (1, 3, 32)
    """

    CONFIG: ClassVar[type[HFConfig]] = BartConfig
    prefix = "model"
    STACKS: ClassVar[Any] = Stacks
    final_logits_bias: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model: Any = self.STACKS(config)
        if config.head == "sequence_classification":
            self.classification_head = ClassificationHead(config.d_model, config.num_labels, config.classifier_dropout)
        elif config.head == "question_answering":
            self.qa_outputs = Linear(config.d_model, config.num_labels, bias=True)
        else:
            table = self.model.tables()[1]
            self.lm_head = Linear(config.d_model, table.num_embeddings)
            self.register_buffer("final_logits_bias", torch.zeros(1, table.num_embeddings))
            if config.tie_word_embeddings:
                self.lm_head.weight = table.weight

    def blocks(self) -> list[nn.Module]:
        """The encoder's layers, then the decoder's."""
        return [*self.model.encoder.layers, *self.model.decoder.layers]

    def encode(self, tokens_BS: Tensor, mask: Tensor | None = None, positions_BS: Tensor | None = None) -> Tensor:
        """See `Seq2Seq.encode`."""
        positions_BS = self._positions(tokens_BS, 0) if positions_BS is None else positions_BS
        memory_BSD: Tensor = self.model.encoder(self._vectors(0, tokens_BS), positions_BS, mask)
        return memory_BSD

    def decode(
        self,
        inputs_RT: Tensor,
        memory_BSD: Tensor,
        mask: Tensor | None = None,
        *,
        target_mask: Tensor | None = None,
        positions_RT: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """See `Seq2Seq.decode`."""
        if positions_RT is None:
            positions_RT = self._positions(inputs_RT, 0 if cache is None else cache.length)
        memory_mask = cross_mask(mask, target_mask, memory_BSD, inputs_RT)
        x_RTD = self._vectors(1, inputs_RT)
        hidden_RTD: Tensor = self.model.decoder(x_RTD, positions_RT, target_mask, memory_BSD, memory_mask, cache)
        return hidden_RTD

    def _vectors(self, side: int, tokens_BT: Tensor) -> Tensor:
        vectors_BTD: Tensor = self.model.tables()[side](tokens_BT, self.compute_dtype) * self.config.embedding_scale
        return vectors_BTD

    def _positions(self, tokens_BT: Tensor, first: int) -> Tensor:
        stop = first + tokens_BT.shape[1]
        if stop > self.config.max_position_embeddings:
            raise BadInput(
                f"{stop} positions are asked of a model that has {self.config.max_position_embeddings}",
                hint="shorten the texts",
            )
        return torch.arange(first, stop, device=tokens_BT.device)[None]

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection: the embedding, usually, and a bias that is not trained."""
        if self.config.head != "seq2seq_lm":
            return super().head
        return BiasedHead(self.lm_head, self.final_logits_bias[0])

    @torch.no_grad()
    def init_weights(self, seed: int) -> Self:
        """Normal weights of one spread, no biases; the padding's vector is zero."""
        super().init_weights(seed)
        for table in self.model.tables():
            table.weight[self.config.pad_token_id] = 0.0
        if self.config.head == "seq2seq_lm":
            self.final_logits_bias.zero_()
        return self

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Matrices from a normal distribution of deviation `init_std`; norms 1, biases 0."""
        if parameter.dim() < 2:
            super().init_parameter(name, parameter, generator)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.config.init_std)

    def legacy_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official checkpoints under today's names.

        Those without a head lack the prefix; some hold the embedding several times, version numbers or the sinusoids
        of Marian, and have no static bias, which is zero then.
        """
        own = self.state_dict()
        trunk = ("shared.", "encoder.", "decoder.")
        renamed = {f"model.{name}" if name.startswith(trunk) else name: tensor for name, tensor in state.items()}
        if "model.shared.weight" in own:
            for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
                if name in renamed:
                    renamed.setdefault("model.shared.weight", renamed.pop(name))
        if "final_logits_bias" in own:
            renamed.setdefault("final_logits_bias", torch.zeros_like(own["final_logits_bias"], device="cpu"))
        if self.config.tie_word_embeddings and "lm_head.weight" in own:
            table = "model.shared.weight" if "model.shared.weight" in own else "model.decoder.embed_tokens.weight"
            words, projection = renamed.get(table), renamed.get("lm_head.weight")
            if words is not None and projection is not None and not torch.equal(words, projection):
                raise BadInput(
                    f"lm_head.weight is not {table}, as tie_word_embeddings in config.json says it is",
                    hint="config.json and weights must come from the same model",
                )
        return {name: tensor for name, tensor in renamed.items() if name in own or not name.startswith(UNUSED)}

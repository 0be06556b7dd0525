"""T5 (Raffel et al. 2020) and T5 v1.1: pre-norm encoder–decoder whose positions are a bias on the attention scores.

Scores are not scaled by 1/√E (the initial weights are), norms have no bias and do not centre, no layer but the task
heads has a bias. v1.1 gates the feed-forward (Shazeer 2020) and does not scale what its vocabulary projection reads.

Dropout is applied where `transformers` does, except to attention weights.

Tensor names: B rows of the source · R rows of the target · S source positions · T target positions · D hidden size
H heads · E head dimension · F feed-forward size
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, Embedding, Linear, RMSNorm, activation
from mojiang.model._positions import t5_buckets
from mojiang.model._seq2seq import (
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

HEADS = ("lm_head.", "classification_head.", "qa_outputs.")
"""How names of any head begin."""


@dataclass(frozen=True)
class T5Config(HFConfig):
    """The shape of a T5, in the words of its `config.json`."""

    MODEL_TYPE: ClassVar[str] = "t5"
    CLASSES: ClassVar[dict[str, str]] = {
        "seq2seq_lm": "T5ForConditionalGeneration",
        "sequence_classification": "T5ForSequenceClassification",
        "question_answering": "T5ForQuestionAnswering",
    }

    head: Head = field(default="seq2seq_lm", kw_only=True)
    vocab_size: int = 32_128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    classifier_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool = True
    """Whether the vocabulary projection reads states times d_model^-½: what the first T5 does and v1.1 does not."""
    pad_token_id: int = 0
    eos_token_id: int | list[int] = 1
    decoder_start_token_id: int | None = 0

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "seq2seq_lm", num_labels: int | None = None) -> Self:
        """See `HFConfig.from_hf`. Before transformers 5, an untied vocabulary meant that its input is not scaled."""
        scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
        return super().from_hf({**config, "scale_decoder_outputs": scaled}, head, num_labels)

    def check(self) -> None:
        """Raise `BadInput` for a feed-forward that is not computed."""
        kind, _, rest = self.feed_forward_proj.partition("-")
        if rest and kind != "gated":
            raise BadInput(
                f"config.json asks for feed_forward_proj={self.feed_forward_proj!r}",
                hint="computed are an activation, or gated-ACTIVATION",
            )
        activation(self.activation)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward multiplies two projections."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """Name of the feed-forward's activation; v1.1's "gelu" is the approximation by tanh."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name


class Attention(nn.Module):
    """Multi-head attention without scaling; a stack's first one holds the position bias of all its layers."""

    def __init__(self, config: T5Config, decoder: bool, biased: bool) -> None:
        super().__init__()
        self.decoder, self.head_dim = decoder, config.d_kv
        self.max_distance = config.relative_attention_max_distance
        inner = config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inner)
        self.k = Linear(config.d_model, inner)
        self.v = Linear(config.d_model, inner)
        self.o = Linear(inner, config.d_model)
        if biased:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def position_bias(self, num_positions: int, first: int, dtype: torch.dtype) -> Tensor:
        """Bias (1, H, T, S) on the scores of T queries, the first at `first`, over all positions up to the last."""
        table = self.relative_attention_bias
        buckets_TS = t5_buckets(
            num_positions,
            first + num_positions,
            bidirectional=not self.decoder,
            num_buckets=table.num_embeddings,
            max_distance=self.max_distance,
            device=table.weight.device,
            first_query=first,
        )
        bias_1HTS: Tensor = table(buckets_TS, dtype).permute(2, 0, 1)[None]
        return bias_1HTS

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, E)."""
        return split_heads(self.k(x_BTD), self.head_dim), split_heads(self.v(x_BTD), self.head_dim)

    def to_self(self, x_BTD: Tensor, mask: Tensor | None, bias: Tensor, cache: LayerCache | None) -> Tensor:
        """Attention over the same positions."""
        q_BHTE, (k_BHTE, v_BHTE) = split_heads(self.q(x_BTD), self.head_dim), self.project(x_BTD)
        y_BHTE = attend_self(q_BHTE, k_BHTE, v_BHTE, mask, cache, causal=self.decoder, scale=1.0, bias=bias)
        out_BTD: Tensor = self.o(merge_heads(y_BHTE))
        return out_BTD

    def to_memory(self, x_RTD: Tensor, memory_BSD: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """Attention over the encoder's states."""
        q_RHTE = split_heads(self.q(x_RTD), self.head_dim)
        y_RHTE = attend_source(q_RHTE, lambda: self.project(memory_BSD), mask, cache, scale=1.0)
        out_RTD: Tensor = self.o(merge_heads(y_RHTE))
        return out_RTD


class SelfAttentionLayer(nn.Module):
    """Norm, self-attention, dropout."""

    def __init__(self, config: T5Config, decoder: bool, biased: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(config, decoder, biased)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(
        self, x_BTD: Tensor, mask: Tensor | None, bias: Tensor | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor]:
        """The new states and the position bias, which the first layer makes (its parameters are at hand only here)."""
        if bias is None:
            first = 0 if cache is None else cache.length
            bias = self.SelfAttention.position_bias(x_BTD.shape[1], first, x_BTD.dtype)
        attended_BTD = self.SelfAttention.to_self(self.layer_norm(x_BTD), mask, bias, cache)
        return _finite(x_BTD + self.dropout(attended_BTD)), bias


class CrossAttentionLayer(nn.Module):
    """Norm, attention over the encoder's states, dropout."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.EncDecAttention = Attention(config, decoder=True, biased=False)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x_RTD: Tensor, memory_BSD: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """(R, T, D) → (R, T, D)."""
        attended_RTD = self.EncDecAttention.to_memory(self.layer_norm(x_RTD), memory_BSD, mask, cache)
        return _finite(x_RTD + self.dropout(attended_RTD))


class FeedForward(nn.Module):
    """Two projections, or three with a gate."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        if config.gated:
            self.wi_0 = Linear(config.d_model, config.d_ff)
            self.wi_1 = Linear(config.d_model, config.d_ff)
        else:
            self.wi = Linear(config.d_model, config.d_ff)
        self.wo = Linear(config.d_ff, config.d_model)
        self.dropout = Dropout(config.dropout_rate)
        self.gated, self.activation = config.gated, activation(config.activation)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        if self.gated:
            inner_BTF = self.activation(self.wi_0(x_BTD)) * self.wi_1(x_BTD)
        else:
            inner_BTF = self.activation(self.wi(x_BTD))
        out_BTD: Tensor = self.wo(self.dropout(inner_BTF))
        return out_BTD


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward, dropout."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return _finite(x_BTD + self.dropout(self.DenseReluDense(self.layer_norm(x_BTD))))


class Block(nn.Module):
    """One layer of the encoder, or of the decoder."""

    def __init__(self, config: T5Config, decoder: bool, biased: bool) -> None:
        super().__init__()
        parts: list[nn.Module] = [SelfAttentionLayer(config, decoder, biased)]
        if decoder:
            parts.append(CrossAttentionLayer(config))
        self.layer = nn.ModuleList([*parts, FeedForwardLayer(config)])

    def forward(
        self,
        x_BTD: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        memory_BSD: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The new states and the position bias; the first block is given none and makes it for all."""
        x_BTD, bias = self.layer[0](x_BTD, mask, bias, cache)
        if memory_BSD is not None:
            x_BTD = self.layer[1](x_BTD, memory_BSD, memory_mask, cache)
        return self.layer[-1](x_BTD), bias


def _finite(x: Tensor) -> Tensor:
    # Sums of T5's residual stream leave fp16's range; infinities would end in NaN at the next norm.
    return x.clamp(-64_504.0, 64_504.0) if x.dtype == torch.float16 else x


class Stack(nn.Module):
    """The blocks of one side and the norm behind them."""

    def __init__(self, config: T5Config, num_layers: int, decoder: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList([Block(config, decoder, biased=number == 0) for number in range(num_layers)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)
        self.final_dropout = Dropout(config.dropout_rate)

    def forward(
        self,
        x_BTD: Tensor,
        mask: Tensor | None,
        memory_BSD: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Final states (B, T, D) for embedded tokens."""
        x_BTD, bias = self.dropout(x_BTD), None
        for number, block in enumerate(self.block):
            part = None if cache is None else cache.layer(number)
            x_BTD, bias = block(x_BTD, mask, bias, memory_BSD, memory_mask, part)
        out_BTD: Tensor = self.final_dropout(self.final_layer_norm(x_BTD))
        return out_BTD


class Stacks(nn.Module):
    """Both sides and the embedding they share."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.shared, self.encoder, self.decoder = _parts(config)


def _parts(config: T5Config) -> tuple[Embedding, Stack, Stack]:
    decoder_layers = config.num_layers if config.num_decoder_layers is None else config.num_decoder_layers
    return (
        Embedding(config.vocab_size, config.d_model),
        Stack(config, config.num_layers, decoder=False),
        Stack(config, decoder_layers, decoder=True),
    )


class T5(Seq2Seq):
    """A T5 for text to text, or with a classification or question-answering head.

    >>> model = T5(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)).init_weights(0)
    >>> hidden_BTD = model(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))
    >>> tuple(model.logits(hidden_BTD).shape)
    (1, 3, 64)
    """

    CONFIG = T5Config

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        if config.head == "sequence_classification":
            self.transformer = Stacks(config)
            self.classification_head = ClassificationHead(config.d_model, config.num_labels, config.classifier_dropout)
            return
        self.shared, self.encoder, self.decoder = _parts(config)
        if config.head == "question_answering":
            self.qa_outputs = Linear(config.d_model, config.num_labels, bias=True)
            return
        self.lm_head = Linear(config.d_model, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.shared.weight

    @property
    def prefix(self) -> str:  # type: ignore[override]
        """Only a classifier keeps its weights below a name of their own."""
        return "transformer" if self.config.head == "sequence_classification" else ""

    @property
    def _stacks(self) -> Any:
        return self.transformer if self.config.head == "sequence_classification" else self

    def blocks(self) -> list[nn.Module]:
        """The encoder's layers, then the decoder's."""
        return [*self._stacks.encoder.block, *self._stacks.decoder.block]

    def encode(self, tokens_BS: Tensor, mask: Tensor | None = None, positions_BS: Tensor | None = None) -> Tensor:
        """See `Seq2Seq.encode`. Positions are relative: `positions_BS` changes nothing."""
        stacks = self._stacks
        memory_BSD: Tensor = stacks.encoder(stacks.shared(tokens_BS, self.compute_dtype), mask)
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
        stacks = self._stacks
        memory_mask = cross_mask(mask, target_mask, memory_BSD, inputs_RT)
        x_RTD = stacks.shared(inputs_RT, self.compute_dtype)
        hidden_RTD: Tensor = stacks.decoder(x_RTD, target_mask, memory_BSD, memory_mask, cache)
        return hidden_RTD

    def head_input(self, hidden: Tensor) -> Tensor:
        """The states, times d_model^-½ where the config asks for it."""
        return hidden * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else hidden

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection, usually the embedding itself."""
        return self.lm_head if self.config.head == "seq2seq_lm" else super().head

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As in Mesh TensorFlow: the queries' small spread takes the place of scaled scores."""
        c = self.config
        if parameter.dim() < 2:
            parameter.fill_(c.initializer_factor if name.endswith("norm.weight") else 0.0)
            return
        std = parameter.shape[-1] ** -0.5
        if name.endswith("shared.weight"):
            std = 1.0  # an untied projection begins like any other matrix, as in T5X
        elif name.endswith(".q.weight"):
            std = (c.d_model * c.d_kv) ** -0.5
        elif name.endswith("relative_attention_bias.weight"):
            std = c.d_model**-0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (std * c.initializer_factor))

    def head_names(self) -> set[str]:
        """Names that belong to the head."""
        return {name for name in self.state_dict() if name.startswith(HEADS)}

    def legacy_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official checkpoints under today's names.

        They hold the embedding up to four times and a bias that nothing reads. A vocabulary projection that is not the
        embedding stays one, whatever the config says: transformers 5 writes that every T5 is tied.
        """
        own = self.state_dict()
        inner = "transformer." if self.config.head == "sequence_classification" else ""
        bare = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
        embeddings = [bare.pop(f"{side}.embed_tokens.weight", None) for side in ("encoder", "decoder")]
        for tensor in embeddings:
            if tensor is not None:
                bare.setdefault("shared.weight", tensor)
        bare.pop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)
        renamed = {name if name.startswith(HEADS) else f"{inner}{name}": tensor for name, tensor in bare.items()}
        kept = {name: t for name, t in renamed.items() if name in own or not name.startswith(HEADS)}
        words, projection = kept.get("shared.weight"), kept.get("lm_head.weight")
        if self.config.tie_word_embeddings and words is not None and projection is not None:
            if torch.equal(words, projection):
                del kept["lm_head.weight"]
            else:
                self.config = replace(self.config, tie_word_embeddings=False)
                self.lm_head.weight = nn.Parameter(torch.empty_like(self.lm_head.weight))
        return kept

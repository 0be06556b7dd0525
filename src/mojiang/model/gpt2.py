"""GPT-2 (Radford et al. 2019), as a language model or with a task's head.

Tensor names:
    B batch · T query positions · S key positions · D hidden size · V vocabulary · C classes
    H heads · E head dimension
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._attention import KeyValueStore, attend
from mojiang.model._layers import Dropout, Embedding, LayerNorm, Linear, activation
from mojiang.model.decoder import last_tokens
from mojiang.model.network import Head, HFConfig, Network


@dataclass(frozen=True)
class GPT2Config(HFConfig):
    """The shape of a GPT-2, in the words of its `config.json`; properties give the words of other architectures."""

    MODEL_TYPE: ClassVar[str] = "gpt2"
    CLASSES: ClassVar[dict[str, str]] = {
        "causal_lm": "GPT2LMHeadModel",
        "sequence_classification": "GPT2ForSequenceClassification",
        "token_classification": "GPT2ForTokenClassification",
        "question_answering": "GPT2ForQuestionAnswering",
        "embedding": "GPT2Model",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256
    pad_token_id: int | None = None
    classifier_dropout: float | None = None
    head: Head = field(default="causal_lm", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for a setting this architecture does not compute."""
        activation(self.activation_function)
        if self.add_cross_attention:
            raise BadInput("config.json asks for cross-attention in GPT-2", hint="use a decoder-only checkpoint")
        if self.n_embd % self.n_head:
            raise BadInput(f"n_embd {self.n_embd} does not divide into {self.n_head} heads", hint="see config.json")

    @property
    def hidden_size(self) -> int:
        """Size of a hidden state."""
        return self.n_embd

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return self.n_layer

    @property
    def num_attention_heads(self) -> int:
        """Number of query heads."""
        return self.n_head

    @property
    def num_key_value_heads(self) -> int:
        """Number of key and value heads: as many as query heads."""
        return self.n_head

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.n_embd // self.n_head

    @property
    def intermediate_size(self) -> int:
        """Size of the feed-forward layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def max_position_embeddings(self) -> int:
        """Number of learned positions: no longer sequence can be computed."""
        return self.n_positions

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied embeddings counted once."""
        D, F = self.n_embd, self.intermediate_size
        layer = 4 * D * D + 4 * D + 2 * D * F + F + D + 4 * D
        heads = {
            "causal_lm": 0 if self.tie_word_embeddings else self.vocab_size * D,
            "sequence_classification": self.num_labels * D,
            "token_classification": self.num_labels * (D + 1),
            "question_answering": 2 * (D + 1),
        }
        return (self.vocab_size + self.n_positions) * D + self.n_layer * layer + 2 * D + heads.get(self.head, 0)


class Conv1D(nn.Module):
    """A projection whose weight is stored transposed, (inputs, outputs), as the original code stored it."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), in the dtype of `x`."""
        return nn.functional.linear(x, self.weight.to(x.dtype).T, self.bias.to(x.dtype))


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.resid_dropout = Dropout(config.resid_pdrop)
        # Attention divides by √E by itself; what the config wants besides is put into the queries.
        self.factor = 1.0 if config.scale_attn_weights else config.head_dim**0.5
        if config.scale_attn_by_inverse_layer_idx:
            self.factor /= layer + 1

    def forward(self, x_BTD: Tensor, mask: Tensor | None, cache: KeyValueStore | None) -> Tensor:
        """Attend; `mask` as for `GPT2.forward`. With a cache the cache attends, and `mask` is not used."""
        B, T, _ = x_BTD.shape
        q, k, v = (x.view(B, T, -1, self.head_dim).transpose(1, 2) for x in self.c_attn(x_BTD).chunk(3, dim=-1))
        if self.factor != 1.0:
            q = q * self.factor
        if cache is not None:
            y = cache.attend(self.layer, q, k, v)
        else:
            y = attend(q, k, v, mask, causal=mask is None or mask.dtype != torch.bool)
        out_BTD: Tensor = self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, -1)))
        return out_BTD


class MLP(nn.Module):
    """Feed-forward of two projections."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, config.intermediate_size)
        self.c_proj = Conv1D(config.intermediate_size, config.n_embd)
        self.act = activation(config.activation_function)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out_BTD: Tensor = self.dropout(self.c_proj(self.act(self.c_fc(x_BTD))))
        return out_BTD


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, mask: Tensor | None, cache: KeyValueStore | None) -> Tensor:
        """Attention and feed-forward, each added to the residual stream."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD), mask, cache)
        out_BTD: Tensor = x_BTD + self.mlp(self.ln_2(x_BTD))
        return out_BTD


class Backbone(nn.Module):
    """Embeddings, blocks and the final norm: what Hugging Face calls `transformer.*`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([Block(config, i) for i in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)


class GPT2(Network):
    """A GPT-2: a causal language model, or what `config.head` says. Called like `Decoder`.

    >>> model = GPT2(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4)).init_weights(seed=0)
    >>> tuple(model.logits(model(torch.zeros(1, 5, dtype=torch.long))).shape)
    (1, 5, 64)
    """

    config: GPT2Config
    prefix = "transformer"

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Backbone(config)
        if config.head == "causal_lm":
            self.lm_head = Linear(config.n_embd, config.vocab_size)
            if config.tie_word_embeddings:
                self.lm_head.weight = self.transformer.wte.weight
        elif config.head == "sequence_classification":
            self.score = Linear(config.n_embd, config.num_labels)
        elif config.head == "token_classification":
            self.dropout = Dropout(0.1 if config.classifier_dropout is None else config.classifier_dropout)
            self.classifier = Linear(config.n_embd, config.num_labels, bias=True)
        elif config.head == "question_answering":
            self.qa_outputs = Linear(config.n_embd, 2, bias=True)

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "causal_lm", num_labels: int | None = None) -> Self:
        """A GPT-2, with arbitrary weights, for a `config.json`."""
        return cls(GPT2Config.from_hf(config, head, num_labels))

    def blocks(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.transformer.h)

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection."""
        return self.lm_head if self.config.head == "causal_lm" else super().head

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KeyValueStore | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, D), after the last norm; the arguments are those of `Decoder.forward`."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        wte, wpe = self.transformer.wte, self.transformer.wpe
        x_BTD = wte(tokens_BT, self.compute_dtype) + wpe(positions_BT, self.compute_dtype)
        x_BTD = self.transformer.drop(x_BTD)
        for block in self.transformer.h:
            x_BTD = block(x_BTD, mask, cache)
        hidden_BTD: Tensor = self.transformer.ln_f(x_BTD)
        return hidden_BTD

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the task's head says; as `Decoder.scores`."""
        scores: Tensor
        if self.config.head == "sequence_classification":
            scores = self.score(last_tokens(hidden_BTD, mask))
        elif self.config.head == "token_classification":
            scores = self.classifier(self.dropout(hidden_BTD))
        else:
            scores = self.qa_outputs(hidden_BTD)
        return scores

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Initialise one parameter: projections into the residual stream the smaller, the more of them there are."""
        super().init_parameter(name, parameter, generator)
        if name.endswith("c_proj.weight"):
            parameter.mul_((2 * self.config.n_layer) ** -0.5)

    def legacy_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without the causal masks that older files stored."""
        return {name: t for name, t in state.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}

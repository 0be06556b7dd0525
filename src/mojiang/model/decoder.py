"""The decoder family: Llama, Qwen2, Qwen3 and Qwen3-MoE, as language models or with a task's head.

Tensor names carry their shape:
    B batch · T query positions · S key positions · D hidden size · V vocabulary · C classes · N spans
    H query heads · K key/value heads · E head dimension · F feed-forward size

Parameter names are the Hugging Face names, so a checkpoint is read and written without a converter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._attention import KeyValueStore, attend
from mojiang.model._layers import Dropout, Embedding, Linear, RMSNorm, activation
from mojiang.model._moe import MLP, SparseMLP
from mojiang.model._positions import Rope, rotary_tables, rotate
from mojiang.model.network import Head, HFConfig, Network

FAMILIES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}
"""`model_type` → what the names of its classes begin with."""
_CLASSES: dict[Head, str] = {
    "causal_lm": "ForCausalLM", "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification", "question_answering": "ForQuestionAnswering",
    "embedding": "Model",
}  # fmt: skip


@dataclass(frozen=True)
class DecoderConfig(HFConfig):
    """The shape of a decoder, in the words of a Hugging Face `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    head_dim: int
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    rope: Rope = Rope()
    tie_word_embeddings: bool = True
    model_type: str = "qwen3"
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    classifier_dropout: float | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 768
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001
    head: Head = field(default="causal_lm", kw_only=True)

    @property
    def qk_norm(self) -> bool:
        """Qwen3 normalises queries and keys per head; Llama and Qwen2 do not."""
        return self.model_type in ("qwen3", "qwen3_moe")

    @property
    def qkv_bias(self) -> bool:
        """Qwen2 always has biases of queries, keys and values, and never one of the output."""
        return self.model_type == "qwen2" or self.attention_bias

    @property
    def architecture(self) -> str:
        """Name of the class in `architectures`."""
        return FAMILIES[self.model_type] + _CLASSES[self.head]

    def is_sparse(self, layer: int) -> bool:
        """Whether that layer's feed-forward is a mixture of experts."""
        sparse = self.num_experts > 0 and (layer + 1) % self.decoder_sparse_step == 0
        return self.model_type == "qwen3_moe" and sparse and layer not in self.mlp_only_layers

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied embeddings counted once."""
        D, E, H, K = self.hidden_size, self.head_dim, self.num_attention_heads, self.num_key_value_heads
        layer = 2 * D * E * (H + K) + 2 * D
        layer += 2 * E if self.qk_norm else 0
        layer += E * (H + 2 * K) if self.qkv_bias else 0
        layer += D if self.attention_bias else 0
        dense = 3 * D * self.intermediate_size + (2 * self.intermediate_size + D if self.mlp_bias else 0)
        sparse = self.num_experts * (3 * D * self.moe_intermediate_size + D)
        num_sparse = sum(map(self.is_sparse, range(self.num_hidden_layers)))
        layers = self.num_hidden_layers * layer + num_sparse * sparse + (self.num_hidden_layers - num_sparse) * dense
        heads = {
            "causal_lm": 0 if self.tie_word_embeddings else self.vocab_size * D,
            "sequence_classification": self.num_labels * D,
            "token_classification": self.num_labels * (D + 1),
            "question_answering": 2 * (D + 1),
        }
        return self.vocab_size * D + layers + D + heads.get(self.head, 0)

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "causal_lm", num_labels: int | None = None) -> Self:
        """Read a Hugging Face `config.json` of one of the `FAMILIES`.

        Raises `BadInput` for another type or for a feature this family does not compute (sliding windows, a stretched
        RoPE of an unknown kind), rather than loading weights that would then give wrong logits.
        """
        model_type = config.get("model_type")
        if model_type not in FAMILIES:
            raise BadInput(
                f"model_type is {model_type!r}; the decoder family reads {', '.join(FAMILIES)}",
                hint="mojiang list shows which architectures are supported",
            )
        if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
            raise BadInput(
                "config.json asks for sliding-window attention, which this decoder does not compute",
                hint="use a checkpoint with full attention",
            )
        given = {key: value for key, value in config.items() if value is not None and key not in _DERIVED}
        if "hidden_size" in given and "num_attention_heads" in given:
            given.setdefault("num_key_value_heads", given["num_attention_heads"])
            given.setdefault("head_dim", given["hidden_size"] // given["num_attention_heads"])
        given.setdefault("tie_word_embeddings", False)
        given["rope"] = Rope.from_hf(config)
        given["mlp_only_layers"] = tuple(given.get("mlp_only_layers", ()))
        if model_type == "qwen3_moe":
            given.setdefault("num_experts", config.get("num_local_experts", 128))
        if isinstance(eos := given.get("eos_token_id"), list):
            given |= {"eos_token_id": eos[0], "eos_token_ids": eos}
        return super().from_hf(given, head, num_labels)

    def check(self) -> None:
        """Raise `BadInput` for a setting this architecture does not compute."""
        activation(self.hidden_act)
        if self.num_attention_heads % self.num_key_value_heads:
            raise BadInput(
                f"{self.num_attention_heads} attention heads do not divide into {self.num_key_value_heads} groups",
                hint="num_key_value_heads in config.json must divide num_attention_heads",
            )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that `transformers` (4 and 5), vLLM and llama.cpp's converter read."""
        config = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True} | super().to_hf()
        rope = config.pop("rope").to_hf()
        # transformers 5 reads rope_parameters; transformers 4 and most other readers rope_theta and rope_scaling
        config |= {"rope_parameters": rope, "rope_theta": rope["rope_theta"], "use_sliding_window": False}
        if rope["rope_type"] != "default":
            config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
        all_eos = config.pop("eos_token_ids", None)
        if all_eos and all_eos[0] == self.eos_token_id:
            config["eos_token_id"] = all_eos
        if self.model_type == "qwen3_moe":
            # transformers 5 writes the second name, and every other reader knows the first
            config |= {"mlp_only_layers": list(self.mlp_only_layers), "num_local_experts": self.num_experts}
        else:
            for key in _MOE_KEYS:
                del config[key]
        if self.classifier_dropout is None:
            del config["classifier_dropout"]
        return config


_DERIVED = ("layer_types", "rope_parameters", "rope_scaling", "rope_theta", "num_local_experts")
"""Keys that others give or that follow from others."""
_MOE_KEYS = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
    "mlp_only_layers", "router_aux_loss_coef",
)  # fmt: skip


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        inner, grouped = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, inner, config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, grouped, config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, grouped, config.qkv_bias)
        self.o_proj = Linear(inner, config.hidden_size, config.attention_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueStore | None
    ) -> Tensor:
        """Attend; `mask` as for `Decoder.forward`. With a cache the cache attends, and `mask` is not used."""
        B, T, _ = x_BTD.shape
        q, k, v = (p(x_BTD).view(B, T, -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            y = cache.attend(self.layer, q, k, v)
        else:
            y = attend(q, k, v, mask, causal=mask is None or mask.dtype != torch.bool)
        out_BTD: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
        return out_BTD


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        act = activation(config.hidden_act)
        self.mlp: nn.Module
        if config.is_sparse(layer):
            self.mlp = SparseMLP(
                config.hidden_size,
                config.moe_intermediate_size,
                config.num_experts,
                config.num_experts_per_tok,
                act,
                config.norm_topk_prob,
            )
        else:
            self.mlp = MLP(config.hidden_size, config.intermediate_size, act, config.mlp_bias)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueStore | None
    ) -> Tensor:
        """Attention and feed-forward, each added to the residual stream."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, mask, cache)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD


class Backbone(nn.Module):
    """Embeddings, blocks and the final norm: what Hugging Face calls `model.*`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Block(config, i) for i in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(Network):
    """A decoder: a causal language model, or what `config.head` says.

    Call it for the final hidden states, then `logits` for the scores of the positions that matter:

    >>> config = DecoderConfig(64, 32, 2, 4, 2, 64, 8)
    >>> model = Decoder(config).init_weights(seed=0)
    >>> hidden_BTD = model(torch.zeros(1, 5, dtype=torch.long))
    >>> tuple(model.logits(hidden_BTD).shape)
    (1, 5, 64)
    """

    config: DecoderConfig
    model: Backbone

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        # Hugging Face named it so in one class and kept the name for the checkpoints there were.
        self.prefix = "transformer" if config.head == "question_answering" else "model"
        self.add_module(self.prefix, Backbone(config))
        if config.head == "causal_lm":
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
            if config.tie_word_embeddings:
                self.lm_head.weight = self.model.embed_tokens.weight
        elif config.head == "question_answering":
            self.qa_outputs = Linear(config.hidden_size, 2, bias=True)
        elif config.head != "embedding":
            self.score = Linear(config.hidden_size, config.num_labels, bias=config.head == "token_classification")
        if config.head == "token_classification":
            self.dropout = Dropout(0.1 if config.classifier_dropout is None else config.classifier_dropout)

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "causal_lm", num_labels: int | None = None) -> Self:
        """A decoder, with arbitrary weights, for a `config.json`."""
        return cls(DecoderConfig.from_hf(config, head, num_labels))

    @property
    def backbone(self) -> Backbone:
        """Embeddings, blocks and the final norm."""
        backbone: Backbone = getattr(self, self.prefix)
        return backbone

    def blocks(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.backbone.layers)

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
        """Final hidden states (B, T, D), after the last norm.

        Without a `mask` attention is causal over the T tokens given. Spans, int64 (N, 3) of (row, start, stop), keep
        it causal inside each span; a boolean mask, broadcastable to (B, H, T, S), says all by itself where a query may
        look. With a `cache` the cache decides what is visible, and `mask` is not used. `positions_BT` are the RoPE
        positions (default 0 … T-1).
        """
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        x_BTD = self.backbone.embed_tokens(tokens_BT, self.compute_dtype)
        cos, sin = rotary_tables(positions_BT, self.config.head_dim, self.config.rope, x_BTD.dtype)
        for block in self.backbone.layers:
            x_BTD = block(x_BTD, cos, sin, mask, cache)
        hidden_BTD: Tensor = self.backbone.norm(x_BTD)
        return hidden_BTD

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the task's head says: (B, C) of whole sequences, (B, T, C) of tokens, (B, T, 2) of starts and stops.

        A sequence is judged at its last token: of each row, or with spans of each span, (N, C).
        """
        scores: Tensor
        if self.config.head == "sequence_classification":
            scores = self.score(last_tokens(hidden_BTD, mask))
        elif self.config.head == "token_classification":
            scores = self.score(self.dropout(hidden_BTD))
        else:
            scores = self.qa_outputs(hidden_BTD)
        return scores

    def keep_router_logits(self, keep: bool = True) -> None:
        """From now on, let sparse layers keep what `take_router_logits` gives, or not (as at the beginning)."""
        for block in self.backbone.layers:
            if isinstance(block.mlp, SparseMLP):
                block.mlp.keep_logits, block.mlp.logits_NX = keep, None

    def take_router_logits(self) -> list[Tensor]:
        """The routers' logits (B · T, X) of the last forward pass, one tensor per sparse layer, for
        `load_balancing_loss`; they are kept no longer.
        """
        sparse = [block.mlp for block in self.backbone.layers if isinstance(block.mlp, SparseMLP)]
        taken = [layer.logits_NX for layer in sparse if layer.logits_NX is not None]
        for layer in sparse:
            layer.logits_NX = None
        return taken

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Initialise one parameter.

        Projections into the residual stream start at zero, so each block begins as the identity and the depth
        needs no learning-rate warm-up of its own (as in nanochat and modded-nanogpt).
        """
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
        elif parameter.dim() < 2 or not name.startswith(f"{self.prefix}.layers."):
            super().init_parameter(name, parameter, generator)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)

    def legacy_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without the frequencies that transformers 4.31 and older stored."""
        return {name: tensor for name, tensor in state.items() if not name.endswith(".rotary_emb.inv_freq")}


def last_tokens(hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
    """Hidden states of each row's last token (B, D), or of each span's that is not empty (N, D).

    In a boolean mask, the last token of a row is the last key that any query sees.
    """
    if mask is None:
        return hidden_BTD[:, -1]
    if mask.dtype != torch.bool:
        rows_N, _, stops_N = mask[mask[:, 1] < mask[:, 2]].unbind(1)
        return hidden_BTD[rows_N, stops_N - 1]
    B, T, _ = hidden_BTD.shape
    seen_BT = mask.flatten(1, -2).any(1).expand(B, T)
    last_B = (seen_BT * torch.arange(T, device=mask.device)).argmax(1)
    return hidden_BTD[torch.arange(B, device=mask.device), last_B]


def document_mask(documents_BT: Tensor) -> Tensor:
    """Attention mask of packed rows (B, 1, T, T): causal, and within one document only.

    `documents_BT` numbers the documents of each row; packing thus never lets one document read another.
    """
    T = documents_BT.shape[1]
    same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    return same & causal

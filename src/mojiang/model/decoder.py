"""The decoder family: Llama and Qwen3 shaped causal language models.

Tensor names carry their shape:
    B batch · T query positions · S key positions · D hidden size · V vocabulary
    H query heads · K key/value heads · E head dimension · F feed-forward size

Parameter names are the Hugging Face names, so a checkpoint is read and written without a converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._attention import document_attention


@dataclass(frozen=True)
class DecoderConfig:
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
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    model_type: str = "qwen3"
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def qk_norm(self) -> bool:
        """Qwen3 normalises queries and keys per head; Llama does not."""
        return self.model_type == "qwen3"

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied embeddings counted once."""
        attention = self.head_dim * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        layer = self.hidden_size * (attention + 3 * self.intermediate_size + 2)
        layer += 2 * self.head_dim if self.qk_norm else 0
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * layer + self.hidden_size

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> DecoderConfig:
        """Read a Hugging Face `config.json` of type `qwen3` or `llama`.

        Raises `BadInput` for another type or for a feature this family does not compute (RoPE scaling, biases),
        rather than loading weights that would then give wrong logits.
        """
        model_type = config.get("model_type")
        if model_type not in ("qwen3", "llama"):
            raise BadInput(
                f"model_type is {model_type!r}; the decoder family reads 'qwen3' and 'llama'",
                hint="mojiang list shows which architectures are supported",
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        biases = config.get("attention_bias") or config.get("mlp_bias")
        if rope_type != "default" or biases or config.get("use_sliding_window"):
            raise BadInput(
                f"config.json asks for rope_type={rope_type!r}, biases={bool(biases)}, "
                f"sliding window={bool(config.get('use_sliding_window'))}; none of these is computed by this decoder",
                hint="use a checkpoint with default RoPE, no biases and full attention",
            )
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        eos = config.get("eos_token_id")
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=hidden,
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            intermediate_size=config["intermediate_size"],
            head_dim=config.get("head_dim") or hidden // heads,
            max_position_embeddings=config["max_position_embeddings"],
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            model_type=model_type,
            bos_token_id=config.get("bos_token_id"),
            eos_token_id=eos[0] if isinstance(eos, list) else eos,
            pad_token_id=config.get("pad_token_id"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that `transformers` (4 and 5), vLLM and llama.cpp's converter read."""
        return {
            "architectures": ["Qwen3ForCausalLM" if self.model_type == "qwen3" else "LlamaForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "intermediate_size": self.intermediate_size,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            # transformers 5 reads rope_parameters, transformers 4 and most other readers rope_theta
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tie_word_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "initializer_range": 0.02,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "use_cache": True,
            "torch_dtype": "float32",
            "dtype": "float32",
        }


class KeyValueStore(Protocol):
    """What attention needs from a cache: keep this step's keys and values, attend over all positions so far.

    The cache attends, not the model, because only it knows which positions a query may see and how they are laid
    out (slots, pages). Handing the keys back instead would force a copy per query group: `repeat_interleave` of a
    (8, 4, 256, 64) slab cost more than the attention itself on CPU.
    """

    def attend(self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Append `k`, `v` to `layer`; return the attention output of `q` over every position so far, (B, H, T, E)."""
        ...


class Linear(nn.Linear):
    """A bias-free projection whose fp32 master weight is cast to the input's dtype.

    This is the whole precision policy: activations decide, masters stay fp32, no autocast context.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__(num_inputs, num_outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), in the dtype of `x`."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019), computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; shape and dtype stay."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * normed.to(x.dtype)


def rotary_tables(positions_BT: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (Su et al. 2021), half-split layout, each (B, 1, T, E)."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, device=positions_BT.device).float() / head_dim)
    angles = positions_BT.float()[:, None, :, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to queries or keys."""
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = Linear(config.hidden_size, config.num_attention_heads * config.head_dim)
        self.k_proj = Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.v_proj = Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.o_proj = Linear(config.num_attention_heads * config.head_dim, config.hidden_size)
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
            if self.groups > 1:
                k, v = k.repeat_interleave(self.groups, dim=1), v.repeat_interleave(self.groups, dim=1)
            if mask is not None and mask.dtype != torch.bool:
                y, _ = document_attention(q, k, v, mask)
            else:
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        out_BTD: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
        return out_BTD


class MLP(nn.Module):
    """SwiGLU feed-forward (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out_BTD: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
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
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Block(config, i) for i in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A causal language model.

    Call it for the final hidden states, then `logits` for the scores of the positions that matter:

    >>> config = DecoderConfig(64, 32, 2, 4, 2, 64, 8)
    >>> model = Decoder(config).init_weights(seed=0)
    >>> hidden_BTD = model(torch.zeros(1, 5, dtype=torch.long))
    >>> tuple(model.logits(hidden_BTD).shape)
    (1, 5, 64)
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.model = Backbone(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KeyValueStore | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, D), after the last norm.

        `mask` is boolean, broadcastable to (B, H, T, S), True where a query may look; without it attention is causal
        over the T tokens given. With a `cache` the cache decides what is visible, and `mask` is not used.
        `positions_BT` are the RoPE positions (default 0 … T-1).
        """
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        x_BTD = self.model.embed_tokens(tokens_BT).to(self.compute_dtype)
        cos, sin = rotary_tables(positions_BT, self.config.head_dim, self.config.rope_theta, x_BTD.dtype)
        for block in self.model.layers:
            x_BTD = block(x_BTD, cos, sin, mask, cache)
        hidden_BTD: Tensor = self.model.norm(x_BTD)
        return hidden_BTD

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary for hidden states (…, D) → (…, V)."""
        scores: Tensor = self.lm_head(hidden)
        return scores

    @torch.no_grad()
    def init_weights(self, seed: int) -> Decoder:
        """Initialise in place, the same on every device and thread count; returns the model.

        Projections into the residual stream start at zero, so each block begins as the identity and the depth
        needs no learning-rate warm-up of its own (as in nanochat and modded-nanogpt).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            else:
                std = 0.02 if "embed" in name or "lm_head" in name else parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        return self


def document_mask(documents_BT: Tensor) -> Tensor:
    """Attention mask of packed rows (B, 1, T, T): causal, and within one document only.

    `documents_BT` numbers the documents of each row; packing thus never lets one document read another.
    """
    T = documents_BT.shape[1]
    same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    return same & causal

"""What a GGUF file calls its tensors and numbers, and what Hugging Face calls them; by architecture.

Two layouts differ. llama.cpp rotates neighbouring pairs of a head's dimensions, so its converter reorders the rows of
the query and key matrices of the architecture "llama"; here they are put back. GPT-2's matrices are stored transposed
in Hugging Face's checkpoints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mojiang.core.errors import BadInput

_LLAMA_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.N.attn_norm": "model.layers.N.input_layernorm",
    "blk.N.attn_q": "model.layers.N.self_attn.q_proj",
    "blk.N.attn_k": "model.layers.N.self_attn.k_proj",
    "blk.N.attn_v": "model.layers.N.self_attn.v_proj",
    "blk.N.attn_output": "model.layers.N.self_attn.o_proj",
    "blk.N.attn_q_norm": "model.layers.N.self_attn.q_norm",
    "blk.N.attn_k_norm": "model.layers.N.self_attn.k_norm",
    "blk.N.ffn_norm": "model.layers.N.post_attention_layernorm",
    "blk.N.ffn_gate": "model.layers.N.mlp.gate_proj",
    "blk.N.ffn_up": "model.layers.N.mlp.up_proj",
    "blk.N.ffn_down": "model.layers.N.mlp.down_proj",
}
_GPT2_NAMES: Final = {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": "lm_head.weight",
    "blk.N.attn_norm": "transformer.h.N.ln_1",
    "blk.N.attn_qkv": "transformer.h.N.attn.c_attn",
    "blk.N.attn_output": "transformer.h.N.attn.c_proj",
    "blk.N.ffn_norm": "transformer.h.N.ln_2",
    "blk.N.ffn_up": "transformer.h.N.mlp.c_fc",
    "blk.N.ffn_down": "transformer.h.N.mlp.c_proj",
}
_NOT_WEIGHTS: Final = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd|.*\.attn\.bias")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """How the tensors of one file become those of a Hugging Face checkpoint, and its config."""

    config: dict[str, Any]
    names: dict[str, str]
    """GGUF's name → Hugging Face's."""
    restore: Callable[[str, Tensor], Tensor]
    """Puts a tensor of that (GGUF) name back into Hugging Face's layout."""

    def restored(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor in Hugging Face's layout, contiguous."""
        return self.restore(name, tensor).contiguous()

    def is_tied(self, tensor: Callable[[str], Tensor]) -> bool:
        """Whether the vocabulary projection is the embedding: not in the file, or (GPT-2) a copy of it."""
        if "output.weight" not in self.names:
            return True
        copied = self.config["model_type"] == "gpt2"
        return copied and torch.equal(tensor("output.weight"), tensor("token_embd.weight"))


def architecture_of(metadata: Mapping[str, Any], shapes: Shapes, tensor: Callable[[str], Tensor]) -> Architecture:
    """The architecture of a file, from its metadata and the shapes of its tensors; `tensor` reads one.

    Raises:
        BadInput: it is none of llama, qwen2, qwen3 and gpt2, a number is missing, or there is a tensor too many.
    """
    name = str(metadata.get("general.architecture"))
    if name not in _MAKERS:
        raise BadInput(f"the GGUF file holds the architecture {name!r}", hint=f"read are {', '.join(sorted(_MAKERS))}")
    numbers = _Numbers(metadata, name)
    table, make_config, restore = _MAKERS[name]
    names = {each: _renamed(each, table) for each in shapes if not _NOT_WEIGHTS.fullmatch(each)}
    unknown = sorted(each for each, found in names.items() if found is None)
    if unknown:
        raise BadInput(
            f"the GGUF file of a {name} has tensors that it should not have: {', '.join(unknown[:8])}",
            hint="only dense models are read; for others use the original checkpoint",
        )
    config = make_config(numbers, shapes)
    if "rope_freqs.weight" in shapes:
        config["rope_scaling"] = _llama3_scaling(config, tensor("rope_freqs.weight"))
    known = {each: found for each, found in names.items() if found is not None}
    return Architecture(config, known, partial(restore, config))


def _renamed(tensor: str, table: Mapping[str, str]) -> str | None:
    if tensor in table:
        return table[tensor]
    found = re.fullmatch(r"(blk\.)(\d+)(\..+)\.(weight|bias)", tensor)
    if not found:
        return None
    target = table.get(f"{found[1]}N{found[3]}")
    return None if target is None else f"{target.replace('N', found[2], 1)}.{found[4]}"


class _Numbers:
    """The numbers of one architecture in the metadata."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata, self._prefix = metadata, architecture

    def get(self, name: str) -> Any:
        value = self._metadata.get(f"{self._prefix}.{name}")
        # Stored as 32-bit floats: 1e-5 comes back as 9.999999747378752e-06.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise BadInput(f"the GGUF file lacks {self._prefix}.{name}", hint="convert the model again")
        return value


def _llama_config(numbers: _Numbers, shapes: Shapes) -> dict[str, Any]:
    vocab_size, hidden = shapes["token_embd.weight"]
    heads = int(numbers.need("attention.head_count"))
    # For some models one number per layer; those are not of this family.
    kv_heads = numbers.get("attention.head_count_kv") or heads
    if not isinstance(kv_heads, int):
        raise BadInput("the layers of the GGUF file have different numbers of heads", hint="use another checkpoint")
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": vocab_size, "hidden_size": hidden, "num_attention_heads": heads,
        "intermediate_size": int(numbers.need("feed_forward_length")),
        "num_hidden_layers": int(numbers.need("block_count")), "num_key_value_heads": kv_heads,
        "head_dim": int(numbers.get("attention.key_length") or hidden // heads),
        "max_position_embeddings": int(numbers.need("context_length")),
        "rms_norm_eps": numbers.need("attention.layer_norm_rms_epsilon"),
        "rope_theta": numbers.get("rope.freq_base") or 10000.0, "rope_scaling": _rope_scaling(numbers),
        "attention_bias": "blk.0.attn_q.bias" in shapes, "mlp_bias": "blk.0.ffn_up.bias" in shapes,
        "tie_word_embeddings": False, "dtype": "float32",
    }  # fmt: skip


def _qwen_config(family: str, name: str, numbers: _Numbers, shapes: Shapes) -> dict[str, Any]:
    config = _llama_config(numbers, shapes)
    del config["mlp_bias"]
    if family == "qwen2":
        del config["attention_bias"], config["head_dim"]  # Qwen2 always has the one, and never the other
    return {**config, "architectures": [name], "model_type": family, "use_sliding_window": False}


def _gpt2_config(numbers: _Numbers, shapes: Shapes) -> dict[str, Any]:
    vocab_size, hidden = shapes["token_embd.weight"]
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "vocab_size": vocab_size, "n_embd": hidden, "n_positions": shapes["position_embd.weight"][0],
        "n_layer": int(numbers.need("block_count")), "n_head": int(numbers.need("attention.head_count")),
        "n_inner": int(numbers.need("feed_forward_length")),
        "layer_norm_epsilon": numbers.need("attention.layer_norm_epsilon"),
        "tie_word_embeddings": False, "dtype": "float32",
    }  # fmt: skip


def _rope_scaling(numbers: _Numbers) -> dict[str, Any] | None:
    kind = numbers.get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise BadInput(f"the GGUF file scales its positions by {kind!r}", hint="use the original checkpoint")
    scaling = {"rope_type": kind, "factor": numbers.need("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = int(numbers.need("rope.scaling.original_context_length"))
    return scaling


def _llama3_scaling(config: Mapping[str, Any], factors: Tensor) -> dict[str, Any]:
    """Llama 3.1's scaling from the factors of its frequencies, which is all that a GGUF file keeps of it.

    All such models share three of the four numbers; whether they are this file's is checked on every factor.
    """
    low, high, original, factor = 1.0, 4.0, 8192, float(factors.max())
    half = config["head_dim"] // 2
    wavelength = 2 * math.pi * config["rope_theta"] ** (torch.arange(half, dtype=torch.float64) / half)
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if factors.shape != expected.shape or not torch.allclose(factors.double(), expected, rtol=1e-3):
        raise BadInput(
            "the GGUF file scales its positions by factors that are not those of Llama 3.1",
            hint="use the original checkpoint",
        )
    return {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }  # fmt: skip


def _restore_llama(config: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if part not in heads:
        return tensor
    rows = tensor.shape[0]
    return (
        tensor.view(heads[part], rows // heads[part] // 2, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    )


def _restore_gpt2(config: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    transposed = name.startswith("blk.") and name.endswith(".weight") and tensor.dim() == 2
    return tensor.t() if transposed else tensor


def _as_it_is(config: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    return tensor


_Maker = tuple[
    Mapping[str, str],
    Callable[[_Numbers, Shapes], dict[str, Any]],
    Callable[[Mapping[str, Any], str, Tensor], Tensor],
]
_MAKERS: Final[dict[str, _Maker]] = {
    "llama": (_LLAMA_NAMES, _llama_config, _restore_llama),
    "qwen2": (_LLAMA_NAMES, partial(_qwen_config, "qwen2", "Qwen2ForCausalLM"), _as_it_is),
    "qwen3": (_LLAMA_NAMES, partial(_qwen_config, "qwen3", "Qwen3ForCausalLM"), _as_it_is),
    "gpt2": (_GPT2_NAMES, _gpt2_config, _restore_gpt2),
}

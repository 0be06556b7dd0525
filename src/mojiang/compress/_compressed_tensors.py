"""An int8 model as a Hugging Face folder in the compressed-tensors format that transformers and vLLM load.

Format "int-quantized": a quantised layer X is stored as `X.weight` (int8) and `X.weight_scale` (one per output row);
`quantization_config` in config.json says so. Everything else keeps its name and is float.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mojiang.core.files import atomic_write
from mojiang.model.network import Network

WEIGHTS = "model.safetensors"


def quantization_config(kept_float: list[str]) -> dict[str, Any]:
    """The `quantization_config` of weight-only, symmetric, per-channel int8, as compressed-tensors reads it."""
    weights = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "channel",
        "group_size": None,
        "block_structure": None,
        "actorder": None,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                # Without it the library takes weight-only int8 for "pack-quantized", four weights to an int32.
                "format": "int-quantized",
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": kept_float,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def save_quantized(model: Network, source: Path, out: Path, embeddings: torch.dtype) -> None:
    """Write a decoder whose projections are `Int8Linear` to `out`, with the tokenizer files of the `source` folder.

    Embeddings and the output head are stored in the dtype `embeddings`; norms stay fp32 (they are tiny).
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        is_table = name in ("lm_head.weight", "model.embed_tokens.weight")
        tensors[name] = tensor.to("cpu", embeddings if is_table else tensor.dtype).contiguous()
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = quantization_config(["lm_head"])
    atomic_write(out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for path in source.iterdir():
        if path.suffix == ".json" and path.name.startswith(("tokenizer", "generation_config", "special_tokens")):
            shutil.copyfile(path, out / path.name)
    if (source / "chat_template.jinja").exists():
        shutil.copyfile(source / "chat_template.jinja", out / "chat_template.jinja")

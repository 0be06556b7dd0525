"""A model with its tokenizer, in the precision an evaluation asks for."""

from __future__ import annotations

from pathlib import Path

import torch

from mojiang.core.artifact import Artifact
from mojiang.core.config import digest
from mojiang.model.load import load_causal_lm
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer, load_tokenizer
from mojiang.train._peak import native_bfloat16


def load_for_scoring(path: Path, device: str, precision: str) -> tuple[Network, Tokenizer, str]:
    """Model in evaluation mode, tokenizer, and the precision that `auto` came to ("float32" or "bfloat16")."""
    if precision == "auto":
        precision = "bfloat16" if native_bfloat16(device) else "float32"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = load_causal_lm(path, device=device, dtype=dtype)
    return model.eval(), load_tokenizer(path), precision


def weights_digest(model: Artifact) -> str:
    """SHA-256 over the checksums of a model's weight files.

    A report keeps it, so that the gate can tell evidence on these very weights from evidence on others that the same
    recipe once made.
    """
    return digest({name: entry.sha256 for name, entry in model.manifest.files.items() if name.endswith(".safetensors")})

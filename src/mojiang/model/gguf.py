"""Read a GGUF file of llama.cpp, and write what is in it as an ordinary Hugging Face folder.

The `gguf` package parses the file and dequantises every type of it; names, layouts, config and tokenizer are put back
into Hugging Face's form here (`_gguf_weights`, `_gguf_tokenizer`). Quantised tensors become fp32, which loses nothing:
the values are those that llama.cpp computes with. Half-precision tensors stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mojiang.core.errors import BadInput, Corrupted, Unavailable
from mojiang.core.files import atomic_write
from mojiang.model._gguf_tokenizer import write_tokenizer
from mojiang.model._gguf_weights import Architecture, architecture_of

SHARD_BYTES: Final = 4 * 10**9
_HALF: Final = {"F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class GGUF:
    """A GGUF file: its metadata as plain values, and its tensors, still quantised."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Any]

    @property
    def licence(self) -> str | None:
        """What the file says its licence is."""
        found = self.metadata.get("general.license")
        return str(found) if found else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, outermost dimension first."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def kind(self, name: str) -> str:
        """What a tensor is stored as: F32, F16, Q4_1, …."""
        return str(self.tensors[name].tensor_type.name)

    def tensor(self, name: str) -> Tensor:
        """A tensor, dequantised; half precision stays half precision."""
        from gguf.quants import dequantize

        stored = self.tensors[name]
        kind = self.kind(name)
        if kind == "F16":
            return torch.from_numpy(np.array(stored.data)).view(self.shape(name))
        if kind == "BF16":
            return torch.from_numpy(np.array(stored.data)).view(torch.bfloat16).view(self.shape(name))
        try:
            values = dequantize(stored.data, stored.tensor_type)
        except (RuntimeError, ValueError) as error:  # a type it only knows by name, or broken blocks
            raise BadInput(
                f"{name} in {self.path.name} is stored as {kind}, which cannot be dequantised: {error}",
                hint="convert the model to Q8_0 or F16 with llama-quantize",
            ) from error
        return torch.from_numpy(np.array(values, dtype=np.float32)).view(self.shape(name))


def read_gguf(path: Path) -> GGUF:
    """Parse a GGUF file; tensors are mapped into memory and read when they are asked for.

    Raises:
        Unavailable: the package `gguf` is not installed.
        Corrupted: the file is no GGUF, or ends too soon.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"reading {path.name} needs the package gguf, which is not installed", hint="pip install 'mojiang[gguf]'"
        ) from error
    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError) as error:
        raise Corrupted(f"{path} is no whole GGUF file: {error}", hint="download it again") from error
    return GGUF(path, metadata, {tensor.name: tensor for tensor in reader.tensors})


def convert_gguf(path: Path, out: Path) -> dict[str, Any]:
    """Write the model of a GGUF file to `out` as a Hugging Face folder; returns what to note about it.

    Raises:
        BadInput: an architecture, tensor, quantisation or tokenizer that is not read here; it is named.
    """
    gguf = read_gguf(path)
    architecture = architecture_of(gguf.metadata, {name: gguf.shape(name) for name in gguf.tensors}, gguf.tensor)
    _write_weights(gguf, architecture, out)
    config = {**architecture.config, **_token_ids(gguf.metadata)}
    if architecture.is_tied(gguf.tensor):
        config["tie_word_embeddings"] = True
    atomic_write(out / "config.json", json.dumps(config, indent=2) + "\n")
    write_tokenizer(gguf.metadata, out)
    kinds = sorted({gguf.kind(name) for name in gguf.tensors})
    return {"architecture": config["architectures"][0], "quantisation": "+".join(kinds), "licence": gguf.licence}


def _token_ids(metadata: dict[str, Any]) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    found = {role: metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
    return {f"{role}_token_id": int(id) for role, id in found.items() if id is not None}


def _write_weights(gguf: GGUF, architecture: Architecture, out: Path) -> None:
    """The tensors in safetensors files of at most `SHARD_BYTES`, one shard in memory at a time."""
    names = [name for name in gguf.tensors if name in architecture.names and not _is_copy(gguf, architecture, name)]
    sizes = {name: gguf.tensors[name].n_elements * (2 if gguf.kind(name) in _HALF else 4) for name in names}
    shards = list(_shards(names, sizes))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        state = {architecture.names[name]: architecture.restored(name, gguf.tensor(name)) for name in shard}
        save_file(state, out / file, metadata={"format": "pt"})
        index |= dict.fromkeys(state, file)
    if len(shards) > 1:
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        atomic_write(out / "model.safetensors.index.json", json.dumps(content, indent=2) + "\n")


def _is_copy(gguf: GGUF, architecture: Architecture, name: str) -> bool:
    return name == "output.weight" and architecture.is_tied(gguf.tensor)


def _shards(names: list[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name in names:
        if shard and size + sizes[name] > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += sizes[name]
    yield shard

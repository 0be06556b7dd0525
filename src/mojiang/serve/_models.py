"""A model in memory, with its engine and where it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from mojiang.core.artifact import MANIFEST, Artifact
from mojiang.core.errors import BadInput
from mojiang.core.files import sha256_file
from mojiang.generate.engine import Engine, PromptTokenizer
from mojiang.model.load import load_causal_lm
from mojiang.tokenizer.load import load_tokenizer


@dataclass(frozen=True)
class ServedModel:
    """A model that answers. `ref` is `name@version`; `run` made it; `created` is in Unix seconds."""

    name: str
    ref: str
    fingerprint: str
    run: str
    created: int
    engine: Engine
    tokenizer: PromptTokenizer

    @property
    def system_fingerprint(self) -> str:
        """What OpenAI's clients compare to see that the model has changed."""
        return f"fp_{self.fingerprint[:16]}"

    @property
    def headers(self) -> dict[str, str]:
        """Where this answer comes from; `mojiang lineage` goes on from the fingerprint to the sources."""
        return {
            "x-mojiang-model": self.ref,
            "x-mojiang-fingerprint": self.fingerprint,
            "x-mojiang-run": self.run,
        }


def load_served(
    source: Artifact | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    slots: int = 8,
    max_queue: int = 64,
    context: int | None = None,
) -> ServedModel:
    """Load a model artifact, or a Hugging Face folder that is in no store, and make its engine."""
    path = source.path if isinstance(source, Artifact) else source
    if not (path / "config.json").is_file():
        raise BadInput(f"{path} is not a model: it has no config.json", hint="give a model, see `mojiang ls model`")
    name, ref, fingerprint, run, created = _identity(source)
    tokenizer = load_tokenizer(path)
    # Training keeps fp32 masters and casts at each use; here the cast is done once, to the same bits.
    model = load_causal_lm(path, device=device, dtype=dtype).to(dtype)
    engine = Engine(model, tokenizer, slots=slots, max_queue=max_queue, context=context)
    return ServedModel(name, ref, fingerprint, run, created, engine, tokenizer)


def _identity(source: Artifact | Path) -> tuple[str, str, str, str, int]:
    path = source.path if isinstance(source, Artifact) else source
    created = int((path / "config.json").stat().st_mtime)
    if isinstance(source, Artifact):
        return source.name, source.ref, source.fingerprint, source.manifest.run, created
    # A folder from elsewhere has no manifest; its weights are its identity.
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.name != MANIFEST:
            digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    name = path.resolve().name
    return name, name, digest.hexdigest(), "none", created

"""Training with adapters: what is frozen and how it is held, and what is written in the end."""

from __future__ import annotations

from pathlib import Path

import torch

from mojiang.core.recipe import Metrics
from mojiang.core.run import Run
from mojiang.model.load import load_model, save_model
from mojiang.model.lora import LoraConfig, adapted, add_adapter, load_adapter, merge_adapter, save_adapter
from mojiang.model.network import Network
from mojiang.model.nf4 import Nf4Linear, quantize_blocks
from mojiang.train._precision import dtype_of
from mojiang.train._session import precision_of
from mojiang.train._settings import AdapterSettings, Compute


def prepare_adapter(model: Network, settings: AdapterSettings, compute: Compute, run: Run) -> LoraConfig | None:
    """Freeze the model, hold its weights as asked and add an adapter; None when all weights are to be trained."""
    if settings.rank == 0:
        return None
    if settings.base == "nf4":
        quantize_blocks(model)
    config = LoraConfig(
        settings.rank, settings.alpha, settings.targets, settings.rslora, settings.dora, settings.dropout
    )
    add_adapter(model, config, run.seed)
    if settings.base == "auto":
        # Every product casts to this dtype anyway: the values are the same, at half the memory and without the cast.
        dtype = dtype_of(precision_of(run, compute))
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.dim() > 1:
                parameter.data = parameter.data.to(dtype)
    return config


def save_adapted(model: Network, config: LoraConfig, folder: Path, run: Run) -> Metrics:
    """Write the merged model as the run's output, the adapter beside it in `adapter/`, and how far both agree."""
    trained = sum(p.numel() for layer in adapted(model).values() for p in layer.adapters.parameters())
    quantized = any(isinstance(layer.base, Nf4Linear) for layer in adapted(model).values())
    save_adapter(model, config, run.out / "adapter", base=run.input("model").fingerprint)
    if not quantized:  # there, what was trained is a change to the 4-bit weights, so those are what it is added to
        model = load_model(folder, device=str(model.device))
        load_adapter(model, run.out / "adapter")
    model.compute_dtype = torch.float32  # in bf16 the two round differently, which says nothing about the merge
    applied = _logits(model)
    difference = (_logits(merge_adapter(model)) - applied).abs().max().item()
    save_model(model, folder, run.out)
    return {"adapter_parameters": trained, "merge_difference": difference}


@torch.no_grad()
def _logits(model: Network, num_tokens: int = 64) -> torch.Tensor:
    """Logits after fixed token ids, to compare two ways of computing the same model."""
    model.eval()
    tokens_BT = torch.arange(num_tokens, device=model.device)[None] * 37 % model.config.vocab_size
    return model.logits(model(tokens_BT)).float()

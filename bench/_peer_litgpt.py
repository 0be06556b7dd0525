"""litgpt's own pre-training (`litgpt.pretrain.setup`, what `litgpt pretrain` calls) as a worker (see `_gate.py`).

Its model, its loop, its chunked loss, its `torch.compile`; the weights are ours, converted by its own converter, and
the rows come through a data module in the order of the file. Its optimizer is AdamW as elsewhere (it asks for the fused
one only on CUDA), its rate constant, no checkpoint is written.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from _gate import Facts, Gate, serve
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

PACKAGES = ("torch", "litgpt", "lightning")


class Enough(Exception):
    """All steps are done; a final checkpoint is not asked for."""


class Rows(Dataset):  # type: ignore[type-arg]
    """Rows in the order of the file; asking for the first row of a step is where the worker waits for its turn."""

    def __init__(self, tokens: torch.Tensor, work: Facts, gate: Gate | None) -> None:
        self.tokens, self.work, self.gate = tokens, work, gate

    def __len__(self) -> int:
        return (self.work["steps"] + 1) * self.work["batch_rows"] if self.gate else self.work["batch_rows"]

    def __getitem__(self, number: int) -> torch.Tensor:
        if self.gate and number % self.work["batch_rows"] == 0:
            step = number // self.work["batch_rows"]
            self.gate.at(step)
            if step == self.work["steps"]:
                raise Enough
        return self.tokens[number % len(self.tokens)]


class Data(DataModule):
    """A data module over the rows of the benchmark."""

    def __init__(self, work: Facts, gate: Gate) -> None:
        super().__init__()
        self.work, self.gate, self.batch_size = work, gate, 1
        self.tokens = torch.from_numpy(np.load(work["rows"]).astype(np.int64))

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any) -> None:
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(Rows(self.tokens, self.work, self.gate), batch_size=self.batch_size, shuffle=False)

    def val_dataloader(self) -> Any:
        return DataLoader(Rows(self.tokens, self.work, None), batch_size=self.batch_size, shuffle=False)


def config_of(shape: Facts) -> Config:
    """The shape in litgpt's words."""
    return Config(
        name="bench", block_size=shape["max_position_embeddings"], vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"], n_layer=shape["num_hidden_layers"], n_head=shape["num_attention_heads"],
        n_query_groups=shape["num_key_value_heads"], n_embd=shape["hidden_size"], head_size=shape["head_dim"],
        rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=1e-6,
        mlp_class_name="LLaMAMLP", intermediate_size=shape["intermediate_size"], rope_base=int(shape["rope_theta"]),
    )  # fmt: skip


def converted(work: Facts, config: Config) -> Path:
    """The shared weights as a litgpt checkpoint."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    state: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, state, load_file(Path(work["folder"]) / "model.safetensors"))  # type: ignore[arg-type]
    torch.save(state, folder / "lit_model.pth")
    return folder


def pretrain(work: Facts, gate: Gate) -> Facts:
    """`litgpt pretrain` on the rows."""
    config = config_of(work["shape"])
    log_dict = lightning.Fabric.log_dict

    def logged(self: Any, metrics: Any, step: int | None = None) -> None:
        gate.losses.append(float(metrics["loss"]))
        log_dict(self, metrics, step)

    lightning.Fabric.log_dict = logged  # type: ignore[method-assign]
    if work.get("device") == "cuda":
        gate.synchronise = torch.cuda.synchronize
    gate.plan([work["batch_rows"] * work["context"]] * work["steps"])
    rate = work["learning_rate"]
    optimizer = {"class_path": "torch.optim.AdamW",
                 "init_args": {"lr": rate, "betas": [0.9, 0.95], "weight_decay": 0.0}}  # fmt: skip
    with contextlib.suppress(Enough):
        setup(
        "bench", model_config=config, out_dir=Path(tempfile.mkdtemp(prefix="bench-")),
        precision="bf16-mixed" if work["precision"] == "bf16" else "32-true",
        initial_checkpoint_dir=converted(work, config), data=Data(work, gate),
        train=TrainArgs(
            save_interval=None, log_interval=1, global_batch_size=work["batch_rows"],
            micro_batch_size=work.get("micro_rows", work["batch_rows"]), lr_warmup_steps=0, min_lr=rate, max_norm=1.0,
            # One iteration more than is measured: the gate is passed when a step's rows are fetched.
            max_tokens=(work["steps"] + 1) * work["batch_rows"] * work["context"], max_seq_length=work["context"],
            tie_embeddings=True,
        ),
        eval=EvalArgs(interval=10**9, max_iters=1, initial_validation=False, final_validation=False),
        optimizer=optimizer, devices=1, logger_name="csv",
    )  # fmt: skip
    return {}


if __name__ == "__main__":
    serve({"pretrain": pretrain}, *PACKAGES)

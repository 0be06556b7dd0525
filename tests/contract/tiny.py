"""For every capability a configuration that finishes in seconds on a CPU.

A value of an input field names the capability whose tiny artifact is the input; CORPUS is the folder of test texts.
"""

from __future__ import annotations

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "data.load": {"source": "CORPUS"},
    "data.clean": {"data": "data.load"},
    "data.normalize": {"data": "data.clean"},
    "data.dedup": {"data": "data.normalize"},
    "data.split": {"data": "data.dedup", "validation": 0.1, "test": 0.1},
    "data.mine": {"data": "data.split"},
    "tokenizer.bpe": {"data": "data.split", "vocab_size": 600},
    "train.pretrain": {
        "data": "data.split", "tokenizer": "tokenizer.bpe", "steps": 6, "depth": 2, "width": 64, "context": 128,
        "batch_tokens": 512, "micro_tokens": 512, "warmup_steps": 1,
    },
    "train.sft": {
        "model": "train.pretrain", "data": "data.mine", "replay": "data.split", "steps": 3, "batch_tokens": 512,
        "micro_tokens": 512,
    },
    "evaluate.heldout": {
        "model": "train.sft", "data": "data.split", "max_bytes": 20_000, "samples": 1, "sample_tokens": 8,
    },
    "evaluate.completion": {"model": "train.sft", "data": "data.split", "problems": 2, "max_tokens": 8, "samples": 1},
    "compress.quantize": {
        "model": "train.sft", "data": "data.split", "parity_bytes": 5_000, "prompts": 2, "tokens": 8,
    },
    "trust.card": {"model": "train.sft", "reports": ["evaluate.heldout", "evaluate.completion"]},
    "trust.gate": {
        "model": "train.sft", "reports": ["evaluate.heldout", "evaluate.completion"],
        "policy": "tests/contract/lenient.yaml",
    },
}  # fmt: skip

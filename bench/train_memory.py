"""Memory: how near is the planner's figure to the peak, and what does a long vocabulary cost?

    python bench/train_memory.py [--quick] [--only vocabulary]

Each shape trains for a few steps in a process of its own, checkpoints and all; its peak resident memory stands beside
what was planned before the first step. Then the loss over 150,000 words alone: ours, and as `transformers` computes it,
with all logits at once.
"""

from __future__ import annotations

from typing import Any

import _data
from _harness import DoesNotRun, Side, alternate, once, parser, row, save

SHAPES = [  # width, layers, heads, ffn, vocabulary, context, rows
    (256, 4, 4, 704, 8192, 512, 8),
    (512, 8, 8, 1408, 8192, 512, 8),
    (512, 8, 8, 1408, 8192, 2048, 4),
    (512, 4, 8, 1408, 49152, 512, 8),
    (768, 12, 12, 2048, 16384, 512, 8),
]
STEPS = 6


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=3).parse_args()
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    if options.only in "planner":
        for shape in [(64, 2, 2, 128, 512, 64, 2)] if options.quick else SHAPES:
            rows += planned(shape, options, versions)
    if options.only in "vocabulary":
        rows += vocabulary(options, versions)
    save("train_memory", rows, options, versions=versions)


def planned(shape: tuple[int, ...], options: Any, versions: dict[str, str]) -> list[dict[str, Any]]:
    """The peak of a few steps and what was predicted."""
    *sizes, context, batch_rows = shape
    llama = _data.llama(*sizes, context)
    work = {
        "task": "pretrain", "whole": True, "folder": str(_data.model_folder(llama)), "context": context,
        "batch_rows": batch_rows,
        "rows": str(_data.token_rows(context, STEPS * batch_rows, llama["vocab_size"], options.quick)), "steps": STEPS,
        "warmup": 1, "repeats": 1, "learning_rate": 1e-3, "precision": "bf16", "compile": False,
    }  # fmt: skip
    name = f"{_data.num_parameters(llama) / 1e6:.0f} M, vocabulary {llama['vocab_size']}, {context} × {batch_rows}"
    try:
        done = once(Side(f"ours, {name}", "_ours", work), options.threads)
    except DoesNotRun as error:
        return [row(name, "peak memory", "MiB", None, None, "the planner's figure", note=str(error))]
    versions |= done["versions"]
    peak, planned = done["peak_memory_mb"], done["planned_memory_mb"]
    return [row(name, "peak memory", "MB", peak, planned, "the planner's figure", "0.9 … 1.1")]


def vocabulary(options: Any, versions: dict[str, str]) -> list[dict[str, Any]]:
    """Memory and time of forward and backward through the projection and its loss."""
    vocab, width, tokens = (1000, 32, 64) if options.quick else (150_000, 512, 4096)
    work = {
        "task": "vocabulary", "vocab": vocab, "width": width, "tokens": tokens, "warmup": 1,
        "steps": 1 + options.repeats, "repeats": options.repeats, "precision": "bf16",
    }  # fmt: skip
    peer = "transformers' loss"
    sides = [Side("ours", "_ours", work), Side(peer, "_peer_transformers", work)]
    done = alternate(sides, options.repeats, options.threads)
    for result in done.values():
        versions |= result.finished["versions"]
    about = f"loss of {tokens} tokens over {vocab:,} words"
    more = {name: (result.peak_bytes - result.finished["before_bytes"]) / 2**20 for name, result in done.items()}
    seconds = {name: tokens / result.rate for name, result in done.items()}
    return [
        row(about, "memory above the weights", "MiB", more.get("ours"), more.get(peer), peer, "<= 0.5"),
        row(about, "forward and backward", "s", seconds.get("ours"), seconds.get(peer), peer),
    ]


if __name__ == "__main__":
    main()

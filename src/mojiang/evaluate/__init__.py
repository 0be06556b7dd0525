"""Measuring models: held-out bits per byte and completions, with baselines and confidence intervals."""

from mojiang.core.catalog import lazy

EVALUATE = {
    "heldout": ("mojiang.evaluate.heldout:HeldOut", "Held-out bits per byte beside gzip, xz, zstd and an n-gram"),
    "completion": ("mojiang.evaluate.completion:Completion", "Share of held-out function bodies that parse"),
}

__getattr__ = lazy(__name__, EVALUATE)

"""Smaller models: quantisation, with the parity of what comes out measured and kept beside it."""

from mojiang.core.catalog import lazy

COMPRESS = {
    "quantize": ("mojiang.compress.quantize:Quantize", "Weight-only int8 with a parity report"),
    "merge": ("mojiang.compress.merge:Merge", "One model of several: linear, SLERP, TIES, task arithmetic, LoRA"),
}

__getattr__ = lazy(__name__, COMPRESS)

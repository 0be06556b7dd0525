"""The fastest matrix product this machine was seen to do: the denominator of model FLOPs utilisation."""

from __future__ import annotations

import time
from functools import cache

import torch

from mojiang.train._precision import DTYPES

BF16_GAIN = 1.2
"""How much faster bf16 must be than fp32 to be worth its rounding."""


@cache
def measure_peak(device: str, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of the best of several square matrix products in `dtype`.

    The best, not the mean: interruptions by other programs only ever slow a product down.
    """
    best = 0.0
    for size in (1024, 2048) if device == "cpu" else (8192,):
        a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        deadline = time.perf_counter() + seconds / 2
        rounds = 0
        while rounds < 3 or time.perf_counter() < deadline:
            started = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
            rounds += 1
    return best


def native_bfloat16(device: str) -> bool:
    """Whether matrix products in bfloat16 are computed by the hardware, not emulated."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@cache
def fast_dtype(device: str, precision: str) -> torch.dtype:
    """The dtype to compute in: as asked, or with `auto` bf16 where its matrix products are clearly the faster ones.

    Measured, because having the instructions says little: some server processors that leave bf16 to their matrix units
    multiply it at half the speed of fp32 when a virtual machine hides those. Measured once per process; a training run
    keeps what it found in its settings.
    """
    if precision == "auto":
        faster = native_bfloat16(device) and (
            measure_peak(device, torch.bfloat16, 0.1) > BF16_GAIN * measure_peak(device, torch.float32, 0.1)
        )
        precision = "bf16" if faster else "fp32"
    return DTYPES[precision]

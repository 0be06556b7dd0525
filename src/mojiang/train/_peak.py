"""The fastest matrix product this machine was seen to do: the denominator of model FLOPs utilisation."""

from __future__ import annotations

import time

import torch


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


def fast_dtype(device: str, precision: str) -> torch.dtype:
    """The dtype to compute in: as asked, or with `auto` bf16 if it multiplies at least 1.5 times faster here."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    speeds = {dtype: measure_peak(device, dtype, 0.1) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if speeds[torch.bfloat16] > 1.5 * speeds[torch.float32] else torch.float32

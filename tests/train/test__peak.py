from __future__ import annotations

import torch

from mojiang.train._peak import fast_dtype, measure_peak


def test_the_peak_is_not_below_a_product_timed_here() -> None:
    import time

    a = torch.ones(1024, 1024)
    a @ a
    started = time.perf_counter()
    a @ a
    assert measure_peak("cpu", torch.float32) >= 0.2 * 2 * 1024**3 / (time.perf_counter() - started)


def test_an_asked_for_precision_is_used() -> None:
    assert fast_dtype("cpu", "fp32") is torch.float32
    assert fast_dtype("cpu", "bf16") is torch.bfloat16
    assert fast_dtype("cpu", "auto") in (torch.float32, torch.bfloat16)

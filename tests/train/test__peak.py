from __future__ import annotations

import torch

from mojiang.train._peak import fast_dtype, measure_peak


def test_the_peak_is_that_of_a_processor() -> None:
    peak = measure_peak("cpu", torch.float32)
    assert 1e8 < peak < 1e15  # FLOP/s: above a microcontroller, below a rack


def test_an_asked_for_precision_is_used() -> None:
    assert fast_dtype("cpu", "fp32") is torch.float32
    assert fast_dtype("cpu", "bf16") is torch.bfloat16
    assert fast_dtype("cpu", "auto") in (torch.float32, torch.bfloat16)

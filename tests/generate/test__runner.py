from __future__ import annotations

from typing import Any

import pytest
import torch

from mojiang.generate._runner import Runner
from mojiang.model.decoder import Decoder, DecoderConfig


@pytest.mark.parametrize(
    "shape", [(320, 64, 2, 4, 2, 96, 16), (1000, 384, 2, 6, 1, 512, 64), (512, 96, 1, 3, 3, 100, 32)]
)
@torch.inference_mode()
def test_bits_do_not_depend_on_the_batch(shape: tuple[int, ...]) -> None:
    """Every logit of a row, bit for bit: any width the runner allows, any neighbours, any longer span."""
    config = DecoderConfig(*shape, 700)
    model = Decoder(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    runner = Runner(model, 8, 700)
    runner.calibrate()
    assert runner.widths[-1] == 8
    lengths = [3, 40, 64, 65, 20, 130, 7, 600]
    prompts = [torch.randint(shape[0], (n,), generator=generator).tolist() for n in lengths]
    for slot, prompt in enumerate(prompts):
        runner.prefill(slot, prompt, 0)
    alone = {slot: runner.decode({slot: (5, n)})[slot].clone() for slot, n in enumerate(lengths)}
    for members in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 7], [1, 5], [2, 3, 4], [6, 7]):
        together = runner.decode({slot: (5, lengths[slot]) for slot in members})
        for slot in members:
            assert torch.equal(together[slot], alone[slot])


@torch.inference_mode()
def test_cached_equals_uncached(random_model: Any) -> None:
    """Prefill in chunks and decode give the logits of one pass over everything."""
    runner = Runner(random_model, 4, 256)
    runner.calibrate()
    tokens = [(i * i + 3) % 320 for i in range(100)]
    expected = random_model.logits(random_model(torch.tensor([tokens])))[0]
    for start in range(0, 64, 32):
        got = runner.prefill(1, tokens[start : start + 32], start)
        torch.testing.assert_close(got, expected[start + 31], rtol=1e-4, atol=1e-4)
    for position in range(64, 100):
        got = runner.decode({1: (tokens[position], position)})[1]
        torch.testing.assert_close(got, expected[position], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_idle_rows_leave_other_slots_alone(random_model: Any) -> None:
    runner = Runner(random_model, 4, 256)
    runner.calibrate()
    assert all(not slab.any() for slab in (*runner.cache.keys, *runner.cache.values))
    runner.prefill(0, [9, 10, 11], 0)
    before = [slab[0].clone() for slab in runner.cache.keys]
    runner.decode({3: (9, 0)})
    for slab, kept in zip(runner.cache.keys, before, strict=True):
        assert torch.equal(slab[0, :, :256], kept[:, :256])

from __future__ import annotations

import pytest
import torch

from mojiang.core.errors import Unavailable
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.train import _memory
from mojiang.train._memory import (
    checkpoint_activations,
    largest_fitting,
    probe_micro,
)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 30, 63, 64, 1000])
def test_the_largest_size_that_fits_is_found_with_few_tries(limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest_fitting(fits, 64) == min(limit, 64)
    assert len(tried) <= 13  # doubling and bisection: 2 log2(64) + 1
    assert max(tried) <= 64


def test_probing_counts_out_of_memory_as_not_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(budget: int) -> None:
        if budget > 5 * 128:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert probe_micro(compute, most=4096, unit=128) == 5 * 128
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 2**34))
    with pytest.raises(Unavailable, match="a single row of 1024 does not fit into this GPU's 16.0 GiB"):
        probe_micro(compute, most=4096, unit=1024)


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputed_activations_give_the_same_gradient_and_keep_less(kind: str) -> None:
    def kept_bytes(kind: str) -> tuple[int, torch.Tensor]:
        model = Decoder(DecoderConfig(64, 64, 4, 4, 4, 128, 16)).init_weights(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        if kind != "none":
            checkpoint_activations(model, kind)
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        tokens = torch.arange(128)[None] % 64
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.logits(model(tokens)).float().logsumexp(-1).sum()
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return sum(sizes.values()), torch.cat(gradients)

    (everything, expected), (less, found) = kept_bytes("none"), kept_bytes(kind)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert less < (0.7 if kind == "full" else 0.95) * everything


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, what: int, value: int) -> int:
            calls.append((what, value))
            return 1

    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda name: Library())
    _memory.keep_freed_memory()
    assert [what for what, _ in calls] == [-3, -1]
    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda name: object())
    _memory.keep_freed_memory()  # another C library has no such thing, and that is no error

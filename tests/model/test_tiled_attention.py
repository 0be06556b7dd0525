"""Tiled attention is attention: beside PyTorch's flash kernel in float32, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.model import _tiled_attention
from mojiang.model._attention import attend
from mojiang.model._tiled_attention import tiled_attention, tiled_attention_backward

SHAPES = [(2, 4, 4, 300, 64), (1, 6, 2, 129, 32), (3, 2, 1, 128, 48), (1, 3, 3, 1, 16)]


def drawn(B: int, H: int, K: int, T: int, E: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(T)
    return [torch.randn(B, T, heads, E, generator=generator).bfloat16().transpose(1, 2) for heads in (H, K, K, H)]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_float32(shape: tuple[int, ...], causal: bool) -> None:
    q, k, v, d_out = drawn(*shape)
    exact = [x.float().requires_grad_() for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*exact, is_causal=causal, scale=0.2, enable_gqa=True)
    expected = torch.autograd.grad(out, exact, d_out.float())
    assert error(tiled_attention(q, k, v, causal, 0.2), out.detach()) < 0.01
    for found, gradient in zip(tiled_attention_backward(d_out, q, k, v, causal, 0.2), expected, strict=True):
        assert found.dtype == torch.bfloat16
        assert found.shape == gradient.shape
        if gradient.norm() > 1e-6:  # of one position alone, nothing moves q and k
            assert error(found, gradient) < 0.01


@pytest.mark.parametrize("tile_bytes", [1, 2**14, 2**30])
def test_the_size_of_a_tile_changes_nothing_but_rounding(tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, d_out = drawn(2, 4, 2, 200, 32)
    whole = (tiled_attention(q, k, v, True, 0.3), *tiled_attention_backward(d_out, q, k, v, True, 0.3))
    monkeypatch.setattr(_tiled_attention, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(_tiled_attention, "TILE_ROWS", 32)
    cut = (tiled_attention(q, k, v, True, 0.3), *tiled_attention_backward(d_out, q, k, v, True, 0.3))
    for found, expected in zip(cut, whole, strict=True):
        assert error(found, expected.float()) < 0.005


def test_documents_in_bfloat16_see_only_themselves() -> None:
    q, k, v, _ = drawn(2, 4, 2, 160, 32)
    spans = torch.tensor([[0, 0, 160], [1, 0, 30], [1, 30, 150]])
    found = attend(q, k, v, spans, causal=True)
    for row, start, stop in spans.tolist():
        part = [x[row : row + 1, :, start:stop].float() for x in (q, k, v)]
        alone = F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)
        assert error(found[row : row + 1, :, start:stop], alone) < 0.01
    assert not found[1, :, 150:].any()

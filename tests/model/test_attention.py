"""Attention against the formula, by every path that computes it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from mojiang.model._attention import (
    _varlen_attention,
    attend,
    document_attention,
    key_mask,
    span_mask,
    span_numbers,
)

SPANS = torch.tensor([[0, 0, 5], [0, 5, 11], [1, 0, 12], [2, 3, 9], [2, 9, 9], [3, 0, 1], [4, 0, 12]])
B, H, T, E = 5, 4, 12, 8


def qkv(kv_heads: int = H, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(kv_heads)
    shapes = [(B, H, T, E), (B, kv_heads, T, E), (B, kv_heads, T, E)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def formula(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, bias: Tensor | None
) -> Tensor:
    """softmax(q k' · scale + bias) v in float64 over what may be seen; 0 where nothing may."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    seen = torch.ones(scores.shape, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    if causal:
        seen = seen & torch.ones(seen.shape[-2:], dtype=torch.bool).tril()
    weights = torch.where(seen, (scores - scores.amax(-1, keepdim=True)).exp(), 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ v


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("kind", ["none", "spans", "mask"])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_equal_the_formula(
    causal: bool, kv_heads: int, scale: float | None, kind: str, biased: bool
) -> None:
    inputs = qkv(kv_heads)
    boolean = None if kind == "none" else span_mask(SPANS, B, T)
    mask = SPANS if kind == "spans" else boolean
    bias = torch.randn(1, H, T, T, generator=torch.Generator().manual_seed(9)).requires_grad_() if biased else None
    wanted = [*inputs, bias] if bias is not None else inputs
    y = attend(*inputs, mask, causal=causal, scale=scale, bias=bias)
    expected = formula(*inputs, boolean, causal, scale, bias)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(8))
    gradients = torch.autograd.grad((y * weight).sum(), wanted)
    for ours, other in zip(gradients, torch.autograd.grad((expected * weight).sum(), wanted), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_cross_attention_sees_the_texts_and_not_their_padding() -> None:
    q, _, _ = qkv()
    k, v = (torch.randn(B, H, 7, E, generator=torch.Generator().manual_seed(n)) for n in (3, 4))
    spans = torch.tensor([[row, 0, length] for row, length in enumerate([7, 3, 1, 5, 2])])
    y = attend(q, k, v, key_mask(spans, B, 7), causal=False)
    for row, _, length in spans.tolist():
        at = slice(row, row + 1)
        alone = attend(q[at], k[at, :, :length], v[at, :, :length], causal=False)
        torch.testing.assert_close(y[at], alone, rtol=1e-5, atol=1e-6)


def test_positions_in_no_span_give_zero_and_no_gradient() -> None:
    for bias in (None, torch.zeros(1, 1, T, T)):
        inputs = qkv(2)
        y = attend(*inputs, SPANS, causal=True, bias=bias)
        inside = span_numbers(SPANS, B, T) > 0
        assert inside.sum() == 5 + 6 + 12 + 6 + 1 + 12
        assert y.transpose(1, 2)[~inside].abs().max() == 0
        y.sum().backward()
        for x in inputs:
            assert x.grad is not None
            assert x.grad.transpose(1, 2)[~inside].abs().max() == 0
            assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_the_operator_obeys_the_rules_for_operators(kv_heads: int) -> None:
    torch.library.opcheck(document_attention, (*qkv(kv_heads), SPANS, False, 0.3))


def test_half_precision_is_close_to_the_formula() -> None:
    inputs = qkv(2, torch.bfloat16)
    y = attend(*inputs, SPANS, causal=True)
    assert y.dtype == torch.bfloat16
    expected = formula(*inputs, span_mask(SPANS, B, T), True, None, None)
    torch.testing.assert_close(y.double(), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_handed_to_the_kernel_for_sequences_of_many_lengths(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs a GPU; here is what its documentation says it computes."""
    from torch.nn.attention import varlen

    def described(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, others: Tensor, *rest: Any, **how: Any) -> Tensor:
        assert borders.dtype == torch.int32
        assert torch.equal(borders, others)
        assert rest == (T, T)
        assert how.pop("enable_gqa")
        assert how == {"scale": 0.5, "window_size": (-1, 0) if causal else (-1, -1)}
        y = torch.full_like(q, torch.nan)
        for start, stop in itertools.pairwise(borders.tolist()):
            part = [x[None, start:stop].transpose(1, 2) for x in (q, k, v)]
            y[start:stop] = attend(*part, causal=causal, scale=0.5)[0].transpose(0, 1)
        return y

    monkeypatch.setattr(varlen, "varlen_attn", described)
    inputs = [x.detach() for x in qkv(2)]
    y = _varlen_attention(*inputs, SPANS, causal, 0.5)
    torch.testing.assert_close(y, attend(*inputs, SPANS, causal=causal, scale=0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_all_paths_agree_on_a_gpu(causal: bool, kv_heads: int, dtype: torch.dtype) -> None:
    inputs = [x.detach().cuda().requires_grad_() for x in qkv(kv_heads, dtype)]
    spans, mask = SPANS.cuda(), span_mask(SPANS, B, T).cuda()
    results = [attend(*inputs, spans, causal=causal), attend(*inputs, mask, causal=causal)]
    if dtype == torch.bfloat16:
        results.append(_varlen_attention(*inputs, spans, causal, None))
    expected = formula(*(x.cpu() for x in inputs), mask.cpu(), causal, None, None)
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-4
    wanted = torch.autograd.grad(expected.sum(), inputs)
    for y in results:
        torch.testing.assert_close(y.double().cpu(), expected, rtol=tolerance, atol=tolerance)
        for ours, other in zip(torch.autograd.grad(y.sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(ours, other, rtol=2 * tolerance, atol=2 * tolerance)

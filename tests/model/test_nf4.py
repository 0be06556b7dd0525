from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mojiang.core.errors import BadInput
from mojiang.model._layers import Linear
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.nf4 import NF4, Nf4Linear, dequantize_nf4, quantize_blocks, quantize_nf4


def test_the_sixteen_values_are_normal_quantiles() -> None:
    """Dettmers et al. 2023, section 3: 8 negative and 9 positive quantiles of N(0, 1), scaled to [-1, 1], one zero."""
    offset = 0.9677083
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([positive, [0.0], negative])) / positive.max()
    assert np.allclose(NF4.numpy(), values, atol=1e-6)


def test_every_number_becomes_the_nearest_of_the_sixteen() -> None:
    weight = torch.randn(4 * 64, generator=torch.Generator().manual_seed(0))
    found = dequantize_nf4(*quantize_nf4(weight)).view(4, 64)
    scale = weight.view(4, 64).abs().amax(dim=1, keepdim=True)
    candidates = scale[:, :, None] * NF4
    nearest = (weight.view(4, 64, 1) - candidates).abs().argmin(dim=-1, keepdim=True)
    assert torch.equal(found, candidates.expand(4, 64, 16).gather(-1, nearest)[..., 0])


def test_a_layer_is_small_and_computes_with_its_own_weight() -> None:
    linear = Linear(128, 512, bias=True)
    layer = Nf4Linear(linear.weight, linear.bias)
    stored = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert stored * 8 / linear.weight.numel() < 4.2  # bits per weight; the paper's figure is 4.127
    x = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(1), requires_grad=True)
    expected = torch.nn.functional.linear(x, layer.dequantized(), linear.bias)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    (exact,) = torch.autograd.grad(expected.square().sum(), x)
    assert torch.allclose(gradient, exact, rtol=1e-4, atol=1e-4)


def test_double_quantisation_costs_little() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    once = dequantize_nf4(*quantize_nf4(weight)).view(256, 256)
    twice = Nf4Linear(weight).dequantized()
    error_once, error_twice = (w.sub(weight).pow(2).mean().item() for w in (once, twice))
    assert error_once < 0.011  # of unit variance, for blocks of 64
    assert error_twice < 1.02 * error_once


def test_a_model_with_four_bit_blocks_is_the_model_with_those_weights() -> None:
    model = Decoder(DecoderConfig(64, 64, 2, 4, 2, 128, 16)).init_weights(0)
    float_model = Decoder(model.config).init_weights(0)
    assert len(quantize_blocks(model)) == 14
    assert isinstance(model.lm_head, Linear), "embeddings and head stay as they are"
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, Nf4Linear):
                float_model.get_submodule(name).weight.copy_(layer.dequantized())  # type: ignore[operator]
    tokens = torch.arange(20)[None]
    assert torch.allclose(model.logits(model(tokens)), float_model.logits(float_model(tokens)), atol=1e-5)


def test_what_cannot_be_cut_into_blocks_is_refused() -> None:
    with pytest.raises(BadInput, match="no whole blocks"):
        quantize_nf4(torch.ones(100))
    with pytest.raises(BadInput, match="NaN"):
        quantize_nf4(torch.full((64,), torch.nan))

"""Int8 layers against exact arithmetic in float64, and against the float layer they replace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mojiang.core.errors import BadInput
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.int8 import Int8Linear, dequantize_weight, quantize_weight, replace_linears

CONFIG = DecoderConfig(64, 32, 2, 4, 2, 96, 8)


def _weight(outputs: int = 48, inputs: int = 64) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(3)) * 0.02


def test_rounding_error_is_at_most_half_a_step_and_every_row_uses_the_range() -> None:
    weight = _weight() * torch.logspace(-6, 3, 48)[:, None]
    q, scale = quantize_weight(weight)
    assert q.dtype == torch.int8
    assert (weight - dequantize_weight(q, scale)).abs().le(scale * 0.5001).all()
    largest = q.abs().amax(dim=1)
    assert largest.max() <= 127
    assert largest.min() >= 126
    assert torch.equal(scale, scale.bfloat16().float())


def test_edge_weights() -> None:
    q, scale = quantize_weight(torch.zeros(2, 4))
    assert q.abs().max() == 0
    assert torch.isfinite(scale).all()
    with pytest.raises(BadInput, match="NaN"):
        quantize_weight(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("rows", [1, 2, 5, 13, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_forward_equals_float64_arithmetic(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    layer = Int8Linear.from_float(_weight())
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(4)).to(dtype)
    exact = x.double() @ (layer.weight.double() * layer.weight_scale.double()).T
    y = layer(x)
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() <= tolerance * exact.abs().max()


def test_leading_dimensions_are_kept() -> None:
    layer = Int8Linear.from_float(_weight())
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 3, 64).to(dtype)
        assert torch.allclose(layer(x), layer(x.reshape(6, 64)).view(2, 3, 48), atol=1e-5)
        assert layer(x[:, :0]).shape == (2, 0, 48)


def test_fp32_equals_the_float_layer_on_the_same_weight() -> None:
    layer = Int8Linear.from_float(_weight())
    x = torch.randn(5, 64)
    torch.testing.assert_close(layer(x), F.linear(x, layer.dequantized()), rtol=1e-5, atol=1e-6)


def test_state_survives_saving_casting_and_loading() -> None:
    layer, other = Int8Linear.from_float(_weight()), Int8Linear(64, 48)
    x = torch.randn(3, 64)
    before = layer(x)
    assert set(layer.state_dict()) == {"weight", "weight_scale"}
    other(x)  # expands the empty weight, which loading must forget
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), before)
    layer.to(torch.bfloat16)
    assert layer.weight.dtype == torch.int8
    assert layer.weight_scale.dtype == torch.float32
    assert torch.equal(layer(x), before)


def test_biases_are_kept_in_fp32() -> None:
    linear = nn.Linear(64, 48)
    layer, other = Int8Linear.from_float(linear.weight, linear.bias), Int8Linear(64, 48, bias=True)
    x = torch.randn(5, 64)
    torch.testing.assert_close(layer(x), F.linear(x, layer.dequantized(), linear.bias), rtol=1e-5, atol=1e-6)
    assert set(layer.state_dict()) == {"weight", "weight_scale", "bias"}
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert layer.to(torch.bfloat16).bias.dtype == torch.float32
    model = Decoder(DecoderConfig(64, 32, 1, 4, 2, 96, 8, model_type="qwen2")).init_weights(seed=0)
    assert len(replace_linears(model)) == 7
    assert model.model.layers[0].self_attn.q_proj.bias is not None


def test_replaces_every_projection_but_the_head() -> None:
    model = Decoder(CONFIG).init_weights(seed=0)
    for block in model.model.layers:  # the residual projections start at zero, which would hide them
        nn.init.normal_(block.self_attn.o_proj.weight, std=0.1)
        nn.init.normal_(block.mlp.down_proj.weight, std=0.1)
    tokens = torch.arange(10)[None]
    before = model.logits(model(tokens))
    names = replace_linears(model)
    assert len(names) == 7 * CONFIG.num_hidden_layers
    assert not any(type(m) is not Int8Linear for n, m in model.named_modules() if n.endswith("_proj"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    after = model.logits(model(tokens))
    change = (after - before).norm() / before.norm()
    assert 0 < change < 0.05


def test_empty_layers_take_a_state_dict() -> None:
    model, shell = Decoder(CONFIG).init_weights(seed=0), Decoder(CONFIG)
    replace_linears(model)
    replace_linears(shell, make=lambda old: Int8Linear(old.in_features, old.out_features))
    shell.load_state_dict(model.state_dict())
    tokens = torch.arange(7)[None]
    assert torch.equal(shell(tokens), model(tokens))

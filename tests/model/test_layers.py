"""Layers against PyTorch's and transformers', and the dropout against what probability says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import (
    ACTIVATIONS,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    activation,
    random_bits,
    set_dropout_keys,
)

X = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1)) * 3


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_equal_transformers(name: str) -> None:
    peers = pytest.importorskip("transformers.activations")
    torch.testing.assert_close(activation(name)(X), peers.ACT2FN[name](X), rtol=1e-5, atol=1e-6)


def test_an_unknown_activation_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="gelu_10"):
        activation("gelu_10")


def test_norms_equal_pytorch() -> None:
    ours, theirs = LayerNorm(16, 1e-5), nn.LayerNorm(16, eps=1e-5)
    plain, rms, their_rms = LayerNorm(16, 1e-5, bias=False), RMSNorm(16, 1e-5), nn.RMSNorm(16, eps=1e-5)
    generator = torch.Generator().manual_seed(2)
    for parameter in (*theirs.parameters(), *their_rms.parameters()):
        nn.init.normal_(parameter, generator=generator)
    ours.load_state_dict(theirs.state_dict())
    rms.load_state_dict(their_rms.state_dict())
    torch.testing.assert_close(ours(X), theirs(X))
    torch.testing.assert_close(rms(X), their_rms(X))
    torch.testing.assert_close(plain(X), torch.layer_norm(X, [16]))
    assert set(plain.state_dict()) == {"weight"}


def test_masters_stay_fp32_and_activations_decide() -> None:
    layers = [Linear(16, 8), Linear(16, 8, bias=True), LayerNorm(16, 1e-5), RMSNorm(16, 1e-5)]
    for layer in layers:
        y = layer(X.bfloat16())
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), layer(X), rtol=0.05, atol=0.05)
        y.sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in layer.parameters())
    table = Embedding(7, 3)
    assert table(torch.tensor([1]), torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(table(torch.tensor([1, 2])), table.weight[1:3])


def test_a_padding_vector_is_never_trained() -> None:
    table = Embedding(4, 3, padding_idx=1)
    table(torch.tensor([0, 1, 1])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[:, 0].tolist() == [1, 0, 0, 0]


def dropped(p: float, keys: torch.Tensor, numbers: int) -> torch.Tensor:
    layer = Dropout(p)
    set_dropout_keys(layer, keys)
    return layer(torch.ones(len(keys), numbers)) == 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_has_its_rate_in_rows_at_places_and_between_rows(p: float) -> None:
    """Rows with neighbouring keys: each within five standard errors, and uncorrelated."""
    rows, numbers = 400, 2000
    mask = dropped(p, torch.arange(rows), numbers).double()
    error = (p * (1 - p)) ** 0.5
    assert (mask.mean(1) - p).abs().max() < 5 * error / numbers**0.5
    assert (mask.mean(0) - p).abs().max() < 5 * error / rows**0.5
    assert abs(mask.mean() - p) < 4 * error / (rows * numbers) ** 0.5
    for correlation, count in ((torch.corrcoef(mask), numbers), (torch.corrcoef(mask.T), rows)):
        correlation.fill_diagonal_(0)
        assert correlation.abs().max() < 8 / count**0.5  # of two million pairs, and skewed where p is not 1/2
        assert correlation.square().mean() * count == pytest.approx(1, abs=0.02)


def test_dropout_keeps_the_mean_and_the_gradient_of_what_it_keeps() -> None:
    layer = Dropout(0.25)
    set_dropout_keys(layer, torch.tensor([7, 8]))
    x = torch.ones(2, 40_000, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(x.grad, y.detach())


def test_a_row_is_dropped_alike_in_any_batch_of_any_length_on_any_layout() -> None:
    keys = torch.tensor([5, -3, 2**40, 2**63 - 1])
    whole = dropped(0.3, keys, 600)
    assert torch.equal(dropped(0.3, keys[[2, 0]], 600), whole[[2, 0]])
    assert torch.equal(dropped(0.3, keys, 200), whole[:, :200])
    layer = Dropout(0.3)
    set_dropout_keys(layer, keys)
    assert torch.equal(layer(torch.ones(4, 20, 30)).flatten(1) == 0, whole)
    assert torch.equal(layer(torch.ones(4, 30, 20).bfloat16()).flatten(1) == 0, whole)


def test_layers_drop_independently_of_each_other() -> None:
    model = nn.Sequential(Dropout(0.5), Dropout(0.5), Dropout(0.0))
    set_dropout_keys(model, torch.arange(50))
    one, two = (layer(torch.ones(50, 4000)) == 0 for layer in model[:2])
    assert (one & two).float().mean().item() == pytest.approx(0.25, abs=0.005)


def test_without_keys_or_training_it_is_the_identity() -> None:
    layer = Dropout(0.5)
    assert layer(X) is X
    set_dropout_keys(layer, torch.arange(4))
    assert not torch.equal(layer(X), X)
    assert layer.eval()(X) is X
    set_dropout_keys(layer.train(), None)
    assert layer(X) is X
    with pytest.raises(BadInput):
        Dropout(1.0)


def test_bits_are_uniform_and_of_the_same_numbers_everywhere() -> None:
    keys_2B = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    bits = random_bits(keys_2B, 50_000)
    ones = torch.stack([(bits >> shift & 1).float().mean() for shift in range(32)])
    assert (ones - 0.5).abs().max() < 5 * 0.5 / 100_000**0.5

    def mix(x: int) -> int:
        """The hash in Python's unbounded integers."""
        x = (x ^ x >> 16) * 0x21F0AAAD & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0xD35A2D97 & 0xFFFFFFFF
        return x ^ x >> 15

    for place in (0, 1, 777, 49_999):
        expected = mix(((mix(place) ^ 4) + 2) & 0xFFFFFFFF)
        assert int(bits[1, place]) % 2**32 == expected


def test_a_compiler_gives_the_same_bits() -> None:
    keys_2B = torch.tensor([[1, -2], [3, 2**31 - 1]], dtype=torch.int32)
    compiled = torch.compile(random_bits, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(keys_2B, 1000), random_bits(keys_2B, 1000))
    torch._dynamo.reset()

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mojiang.train._average import Average


def trained(model: nn.Module, steps: int, average: Average) -> list[torch.Tensor]:
    """Random weights, step by step; returns the first parameter's history."""
    history = []
    for _ in range(steps):
        with torch.no_grad():
            for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
                tensor.copy_(torch.randn_like(tensor))
        average.update(model)
        history.append(next(model.parameters()).detach().clone())
    return history


def test_after_its_warm_up_it_is_that_of_pytorch() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    ours = Average(model, 0.9)
    ours.steps = 10**6
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(model)  # its first update only copies
    for _ in range(5):
        trained(model, 1, ours)
        theirs.update_parameters(model)
    ours.copy_to(model)
    for mine, other in zip(model.parameters(), theirs.module.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
    assert torch.allclose(model[1].running_mean, theirs.module[1].running_mean, atol=1e-6)  # type: ignore[arg-type]


def test_the_first_weights_are_soon_forgotten() -> None:
    """After n steps the first weights weigh Π min(d, (1+k)/(10+k)): here 1e-5, and 0.95 without the warm-up."""
    model = nn.Linear(3, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e6)
    average = Average(model, 0.999)
    history = trained(model, 50, average)
    weights = [1.0]
    for k in range(1, 51):
        decay = min(0.999, (1 + k) / (10 + k))
        weights = [w * decay for w in weights] + [1 - decay]
    expected = sum(w * t for w, t in zip(weights, [torch.full((3, 3), 1e6), *history], strict=True))
    assert weights[0] < 1e-5
    assert torch.allclose(average.weights["weight"], expected, rtol=1e-4, atol=1e-4)


def test_the_model_has_the_average_inside_and_its_own_weights_after() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight  # tied weights are swapped once, not twice
    average = Average(model, 0.5)
    trained(model, 3, average)
    own, address = model[0].weight.detach().clone(), model[0].weight.data_ptr()
    averaged = average.weights["0.weight"].clone()

    def fails_inside() -> None:
        with average.applied(model):
            assert torch.equal(model[1].weight, averaged)
            assert model[0].weight.data_ptr() == address
            raise KeyError

    with pytest.raises(KeyError):
        fails_inside()
    assert torch.equal(model[0].weight, own)
    assert torch.equal(average.weights["0.weight"], averaged)


def test_frozen_weights_are_not_averaged_and_states_go_on_to_the_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    average = Average(model, 0.9)
    assert set(average.weights) == {"1.weight", "1.bias"}
    trained(model, 4, average)
    other = Average(model, 0.9)
    other.load_state_dict(average.state_dict())
    torch.manual_seed(1)
    trained(model, 4, average)
    torch.manual_seed(1)
    trained(model, 4, other)
    assert all(torch.equal(average.weights[name], other.weights[name]) for name in average.weights)

"""LeNet-5 against the same layers written down one after the other, and its published size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mojiang.core.errors import BadInput
from mojiang.model.lenet import LeNet, LeNetConfig
from mojiang.model.load import load_model, save_model


def test_it_is_lenet_5() -> None:
    model = LeNet(LeNetConfig(num_labels=10)).init_weights(0)
    chain = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    for ours, theirs in zip(model.parameters(), chain.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.scores(model(x)), chain(x))
    # 156 + 2,416 + 48,120 + 10,164 + 850: LeNet-5 with the full second convolution
    assert model.num_parameters() == 61_706


def test_it_learns_to_tell_pictures_apart() -> None:
    generator = torch.Generator().manual_seed(2)
    x, labels = torch.randn(20, 1, 28, 28, generator=generator), torch.arange(20) % 10
    model = LeNet(LeNetConfig(num_labels=10)).init_weights(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.scores(model(x)), labels).backward()
        optimizer.step()
    assert torch.equal(model.scores(model(x)).argmax(1), labels)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    config = LeNetConfig(num_channels=3, image_size=32, num_labels=2, id2label={0: "cat", 1: "dog"})
    model = LeNet(config).init_weights(0)
    save_model(model, None, tmp_path)
    again = load_model(tmp_path)
    assert again.config == config
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.scores(again(x)), model.scores(model(x)))
    new = load_model(tmp_path, num_labels=7)
    assert torch.equal(new(x), model(x))
    assert new.scores(new(x)).shape == (2, 7)


def test_images_it_cannot_read_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\(1, 30, 30\)"):
        LeNet(LeNetConfig())(torch.zeros(1, 1, 30, 30))
    with pytest.raises(BadInput, match="image_size"):
        LeNet.from_hf({"image_size": 8})

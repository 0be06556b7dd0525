"""ResNet against transformers on the same weights: scores, gradients and the statistics of its normalisations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model.load import load_model, save_model
from mojiang.model.resnet import ResNet, ResNetConfig

transformers = pytest.importorskip("transformers")

KINDS: list[dict[str, Any]] = [
    {"layer_type": "basic"},
    {"layer_type": "basic", "downsample_in_first_stage": True},
    {"layer_type": "bottleneck"},
    {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
]


def peer(**changes: Any) -> Any:
    """A ResNet of transformers, every weight and statistic of which matters."""
    config = transformers.ResNetConfig(
        **{
            "num_channels": 3,
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [2, 1],
            "num_labels": 5,
            **changes,
        }
    )
    theirs = transformers.ResNetForImageClassification(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            centre = 1.0 if name.endswith(("normalization.weight", "running_var")) else 0.0
            tensor.copy_(centre + 0.2 * torch.randn(tensor.shape, generator=generator).clamp(-3, 3))
    return theirs.eval()


def images(channels: int = 3, side: int = 40) -> Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_transformers_both_ways(tmp_path: Path, kind: dict[str, Any]) -> None:
    theirs = peer(**kind)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    x = images()
    with torch.no_grad():
        expected = theirs(x).logits
        torch.testing.assert_close(ours.scores(ours(x)), expected, rtol=1e-5, atol=1e-5)
    save_model(ours, None, tmp_path / "ours")
    again, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_is_that_of_transformers(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Loss, every gradient, and what the normalisations remember of the batch."""
    theirs = peer(**kind)
    theirs.save_pretrained(tmp_path)
    ours, x, labels = load_model(tmp_path).train(), images(), torch.tensor([0, 3, 1, 4])
    their_loss = theirs.train()(x, labels=labels).loss
    our_loss = F.cross_entropy(ours.scores(ours(x)), labels)
    torch.testing.assert_close(our_loss, their_loss)
    their_loss.backward()
    our_loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients.pop(name), rtol=1e-4, atol=1e-5, msg=name)
    assert not gradients
    state = theirs.state_dict()
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, state[name], msg=name)


def test_the_default_shape_is_resnet_50() -> None:
    """25,557,032 weights for ImageNet: He et al.'s network as torchvision and timm count it."""
    with torch.device("meta"):
        assert ResNet(ResNetConfig(num_labels=1000)).num_parameters() == 25_557_032


def test_it_begins_with_blocks_that_pass_their_input_on() -> None:
    config = ResNetConfig(1, 8, (8, 16), (2, 1), "basic", num_labels=3)
    model, same, other = (ResNet(config).init_weights(seed).eval() for seed in (0, 0, 1))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    first = next(model.parameters())
    assert not torch.equal(first, next(other.parameters()))
    x = torch.rand(2, 8, 6, 6)
    assert torch.equal(model.blocks()[0](x), x)
    scores = model.scores(model(images(1)))
    assert scores.abs().max() < 1  # no class is preferred yet
    assert model.init_weights(1).state_dict()["resnet.embedder.embedder.normalization.running_mean"].eq(0).all()


def test_half_precision_is_near_and_leaves_the_masters_alone(tmp_path: Path) -> None:
    theirs = peer(layer_type="basic")
    theirs.save_pretrained(tmp_path)
    ours, half, x = load_model(tmp_path), load_model(tmp_path, dtype=torch.bfloat16), images()
    exact = ours.scores(ours(x))
    hidden = half(x)
    assert hidden.dtype == torch.bfloat16
    found = half.scores(hidden)
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.05 * exact.norm()
    found.sum().backward()
    assert {p.dtype for p in half.parameters()} == {p.grad.dtype for p in half.parameters()} == {torch.float32}


def test_blocks_compile_without_a_break() -> None:
    model = ResNet(ResNetConfig(1, 8, (8, 16), (1, 1), "basic", num_labels=3)).init_weights(0)
    with torch.no_grad():
        expected = model.scores(model(images(1)))
        for block in model.blocks():
            block.compile(fullgraph=True, backend="eager")  # raises at what it cannot trace
        torch.testing.assert_close(model.scores(model(images(1))), expected)
    torch._dynamo.reset()


def test_another_number_of_classes_takes_the_body_along(tmp_path: Path) -> None:
    theirs = peer(layer_type="basic")
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path, num_labels=9)
    x = images()
    with torch.no_grad():
        body = theirs.resnet(x).last_hidden_state.flatten(2).mT
        torch.testing.assert_close(ours(x), body, rtol=1e-5, atol=1e-5)
        assert ours.scores(ours(x)).shape == (4, 9)


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"layer_type": "wide"}, {"depths": (1, 1, 1)}])
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        ResNet.from_hf({"hidden_sizes": [8, 16], "depths": [2, 1], **change})


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(BadInput, match="1 channels"):
        ResNet(ResNetConfig(3, 8, (8,), (1,), "basic"))(images(1))

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mojiang.compress import _merging
from mojiang.compress.merge import Merge
from mojiang.core.artifact import Artifact, Manifest
from mojiang.core.errors import BadInput, NotFound
from mojiang.core.run import execute
from mojiang.core.store import Store, now
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.load import load_model, save_model
from mojiang.model.lora import LoraConfig, add_adapter, save_adapter
from mojiang.model.network import Network

Put = Callable[..., Artifact]


def decoder(seed: int, width: int = 16) -> Network:
    model = Decoder(DecoderConfig(40, width, 2, 2, 2, 24, 8)).init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.1)
    return model


@pytest.fixture
def put(store: Store, tmp_path: Path) -> Put:
    """`put(name, model, adapter)`: a model in the store, perhaps with an adapter in it."""

    def one(name: str, model: Network | None, adapter: Callable[[Path], None] | None = None) -> Artifact:
        folder = tmp_path / f"{name}-made"
        folder.mkdir()
        if model is not None:
            save_model(model, None, folder)
        if adapter is not None:
            adapter(folder / "adapter")
        manifest = Manifest(
            kind="model", name=name, version=1, recipe="import", config={}, parents={}, run="import", seed=None,
            fingerprint=hashlib.sha256(name.encode()).hexdigest(), created=now(), seconds=0.0, metrics={}, files={},
            software={},
        )  # fmt: skip
        return store.commit(folder, manifest)

    return one


def weights(model: Network) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def test_linear_is_the_weighted_mean_and_says_how_far_it_is_from_each(store: Store, put: Put) -> None:
    models = [decoder(seed) for seed in (0, 1)]
    for number, model in enumerate(models):
        put(f"m{number}", model)
    made = execute(Merge(models=("m0", "m1"), weights=(3, 1)), store, name="mean").artifact
    merged = weights(load_model(made.path))
    a, b = map(weights, models)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.75 * a[name] + 0.25 * b[name])
    flat = [torch.cat([w[name].flatten() for name in merged]).double() for w in (merged, a, b)]
    for number in (1, 2):
        far = float((flat[0] - flat[number]).norm() / flat[number].norm())
        assert made.metrics[f"distance_{number}"] == pytest.approx(far, rel=1e-5)
        cosine = float(torch.nn.functional.cosine_similarity(flat[0], flat[number], dim=0))
        assert made.metrics[f"cosine_{number}"] == pytest.approx(cosine, rel=1e-5)


def test_slerp_keeps_to_the_arc() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    third = _merging.slerp([a, b], [1, 1], t=1 / 3)
    torch.testing.assert_close(third, 2 * torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 4, generator=draw) for _ in range(2))
    b = b * a.norm() / b.norm()
    for t in (0.0, 0.3, 1.0):
        torch.testing.assert_close(_merging.slerp([a, b], [1, 1], t=t).norm(), a.norm())
    torch.testing.assert_close(_merging.slerp([a, b], [1, 1], t=0.0), a)
    torch.testing.assert_close(_merging.slerp([a, b], [1, 1], t=1.0), b)
    torch.testing.assert_close(_merging.slerp([a, a], [1, 1], t=0.4), a)  # no angle to divide by
    assert not _merging.slerp([torch.zeros(2)] * 2, [1, 1], t=0.5).any()


def test_ties_trims_elects_and_averages_those_that_agree() -> None:
    """The steps of Yadav et al. 2023, figure 1, on numbers that can be followed by hand."""
    base = torch.zeros(6)
    first = torch.tensor([5.0, -4.0, 3.0, 0.1, 0.2, -6.0])
    second = torch.tensor([3.0, 6.0, 0.1, -0.2, 5.0, -2.0])
    # kept of each are four numbers; signs elected: + + + . + -
    wanted = torch.tensor([4.0, 6.0, 3.0, 0.0, 5.0, -4.0])
    found = _merging.ties([first, second], [1, 1], base, density=4 / 6)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        _merging.ties([first + 1, second + 1], [1, 1], base + 1, density=4 / 6, scale=2.0), 1 + 2 * wanted
    )
    # the weight decides the vote on the second number, and the share in the mean of the first
    heavy = _merging.ties([first, second], [3, 1], base, density=4 / 6)
    torch.testing.assert_close(heavy[:2], torch.tensor([(3 * 5 + 3) / 4, -4.0]))


def mergekit_ties(base: Tensor, tensors: list[Tensor], weight: list[float], density: float) -> Tensor:
    """mergekit's generalised task arithmetic with magnitude sparsification, consensus "sum", normalised."""
    deltas = []
    for tensor in tensors:
        delta = tensor - base
        mask = torch.zeros_like(delta).view(-1)
        mask[torch.argsort(delta.abs().view(-1), descending=True)[: int(density * delta.numel())]] = 1
        deltas.append(delta * mask.view_as(delta))
    stacked = torch.stack(deltas)
    by_weight = torch.tensor(weight).view(-1, 1, 1)
    weighted = stacked * by_weight
    majority = (weighted.sum(dim=0) >= 0).to(base.dtype) * 2 - 1
    agree = weighted.sign() == majority
    divisor = (by_weight * agree).sum(dim=0)
    divisor[divisor == 0] = 1
    return base + (weighted * agree).sum(dim=0) / divisor


def test_ties_is_that_of_mergekit() -> None:
    draw = torch.Generator().manual_seed(0)
    base, *tensors = (torch.randn(7, 9, generator=draw) for _ in range(4))
    found = _merging.ties(tensors, [1.0, 0.5, 2.0], base, density=0.3)
    torch.testing.assert_close(found, mergekit_ties(base, tensors, [1.0, 0.5, 2.0], 0.3))


def test_task_arithmetic_adds_and_takes_away_what_was_learned(store: Store, put: Put) -> None:
    base, tuned = decoder(0), decoder(1)
    put("base", base)
    put("tuned", tuned)
    made = execute(Merge(models=("tuned",), base="base", method="task_arithmetic", weights=(-1,)), store).artifact
    merged, a, b = weights(load_model(made.path)), weights(base), weights(tuned)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 2 * a[name] - b[name])
    same = Merge(models=("tuned", "tuned"), base="base", method="ties", density=1.0)
    again = weights(load_model(execute(same, store).artifact.path))
    for name, tensor in again.items():
        torch.testing.assert_close(tensor, b[name])


def test_models_of_another_shape_are_refused_by_the_names_of_their_tensors(store: Store, put: Put) -> None:
    put("one", decoder(0))
    put("other", decoder(0, width=24))
    with pytest.raises(BadInput, match=r"embed_tokens.weight is \(40, 24\), not \(40, 16\)"):
        execute(Merge(models=("one", "other")), store)


def test_an_adapter_goes_into_its_base(store: Store, put: Put) -> None:
    put("base", decoder(0))
    adapted, config = decoder(0), LoraConfig(rank=2, alpha=8)
    add_adapter(adapted, config, seed=1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    put("tuned", decoder(3), lambda folder: save_adapter(adapted, config, folder, "base"))
    made = execute(Merge(models=("tuned",), base="base", method="lora"), store).artifact
    tokens_1T = torch.arange(9)[None]
    with torch.no_grad():
        merged = load_model(made.path)
        wanted = adapted.eval().logits(adapted(tokens_1T))
        torch.testing.assert_close(merged.logits(merged(tokens_1T)), wanted, atol=1e-4, rtol=1e-4)
    assert made.metrics["adapter_rank"] == 2
    assert made.metrics["largest_difference"] < 1e-4  # type: ignore[operator]
    half = load_model(execute(Merge(models=("tuned",), base="base", method="lora", scale=0.5), store).artifact.path)
    name = "model.layers.0.self_attn.q_proj.weight"
    changes = [weights(model)[name] - weights(decoder(0))[name] for model in (half, merged)]
    torch.testing.assert_close(2 * changes[0], changes[1])
    with pytest.raises(NotFound, match="holds no adapter"):
        execute(Merge(models=("base",), base="base", method="lora"), store)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ties"}, "ties needs a base"),
        ({"base": "b"}, "linear has no use for a base"),
        ({"weights": (1.0,)}, "1 weights are given for 2 models"),
        ({"weights": (1.0, -1.0)}, "add up to 0"),
        ({"method": "lora", "base": "b"}, "lora takes 1 models, and 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Merge(models=("a", "b"), **settings)

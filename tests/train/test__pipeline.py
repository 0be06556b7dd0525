"""Two and four ranks of a pipeline compute what one does, and each holds and keeps in flight no more than its part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mojiang.train._parallel import World, loading_device

sys.path.insert(0, str(Path(__file__).parent))
import pipeline_walk
from test__parallel import on_ranks

SIZES = (2, 4)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """By number of ranks; four continue what two began."""
    folder = tmp_path_factory.mktemp("pipeline")
    for size in SIZES:
        on_ranks(size, [pipeline_walk.__file__, str(folder)], folder)
    found = {size: dict(torch.load(folder / f"found-{size}.pt", weights_only=False)) for size in SIZES}
    return {**found, 0: {"folder": folder}}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    flat = [torch.cat([weights[name].detach().flatten().float() for name in expected]) for weights in (found, expected)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", pipeline_walk.CASES)
def test_loss_gradient_and_figures_are_those_of_one_rank(walked: Any, size: int, name: str) -> None:
    alone, together = walked[size][name]
    assert together["terms"] == pytest.approx(alone["terms"], rel=1e-5)
    assert together["norm"] == pytest.approx(alone["norm"], rel=1e-5)
    assert distance(together["gradient"], alone["gradient"]) <= 1e-5
    assert set(alone["figures"]) == {"validation_loss" if "answers" in name else "bits_per_byte"}
    assert together["figures"] == pytest.approx(alone["figures"], rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", pipeline_walk.CASES)
def test_no_more_micro_batches_are_in_flight_than_there_are_ranks_ahead(walked: Any, size: int, name: str) -> None:
    budget = pipeline_walk.CASES[name][2]
    micros = pipeline_walk.ROWS * pipeline_walk.CONTEXT // budget
    assert walked[size][name][1]["peaks"] == [min(size - rank, micros) for rank in range(size)]


@pytest.mark.parametrize(("size", "name"), [*((2, name) for name in pipeline_walk.VARIANTS), (4, "muon"), (4, "adamw")])
def test_three_steps_give_the_weights_and_the_checkpoint_of_one_rank(walked: Any, size: int, name: str) -> None:
    (losses, weights, form), (shared_losses, shared_weights, shared_form) = walked[size][name]
    assert losses[2] < losses[0] - 0.01  # it learns, so there is something to compare
    # Eight bits round differences of 1e-7 to one of two neighbours; rmsprop divides by gradients that are nearly zero.
    tolerance = {"adamw8bit": 3e-5, "rmsprop": 1e-3}.get(name, 3e-6)
    assert shared_losses == pytest.approx(losses, rel=tolerance)
    assert distance(shared_weights, weights) <= tolerance
    assert shared_form == form  # the same names and numbers


@pytest.mark.parametrize("size", SIZES)
def test_weights_and_optimizer_state_are_a_part_of_the_whole(walked: Any, size: int) -> None:
    whole, parts = walked[size]["held"]
    for all_bytes, foreseen, there in (whole, *parts):
        assert foreseen == there
        assert all_bytes > 0
    elsewhere = 60 * 4 * size  # a number in the place of each parameter of others, on every rank
    assert whole[0] <= sum(part[0] for part in parts) <= whole[0] + elsewhere
    assert sum(part[2] for part in parts) == whole[2]
    assert max(part[0] for part in parts) < 0.75 * whole[0] if size == 2 else 0.5 * whole[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return pipeline_walk.train(World(), folder, folder / "run", 8)


@pytest.mark.parametrize("by", [(2, "Pipeline"), (4, "Pipeline"), (2, "Replicas"), (4, "Replicas"), (1, "World")])
def test_what_two_ranks_began_any_others_continue(
    walked: Any, uninterrupted: dict[str, Any], by: tuple[int, str], tmp_path: Path
) -> None:
    began = walked[2]["to step 4"]
    if by[0] == 1:
        found = pipeline_walk.train(World(), tmp_path, walked[0]["folder"] / "first", 8)
    else:
        found = walked[by[0]][f"continued, {by[1]}"]
    assert not began["resumed"]
    assert found["resumed"]
    assert began["taken"] + found["taken"] == uninterrupted["taken"]
    assert found["loss"] == pytest.approx(uninterrupted["loss"], rel=1e-4)
    assert found["figures"] == pytest.approx(uninterrupted["figures"], rel=1e-4)
    assert distance(found["weights"], uninterrupted["weights"]) <= 1e-4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grpo", "PreparedRollouts takes more of a model than its final states; use --parallel ddp or fsdp"),
        ("dpo", "Preference takes more of a model than its final states; use --parallel ddp or fsdp"),
        ("balance", "BalancedLM takes more of a model than its final states; use --parallel ddp or fsdp"),
        ("encoder", "of llama, qwen2, qwen3, qwen3_moe, not Bert with head 'masked_lm'; use --parallel ddp or fsdp"),
        ("head", "not Decoder with head 'sequence_classification'; use --parallel ddp or fsdp"),
        ("adapter", "does not cut a model with an adapter; use --parallel ddp or fsdp"),
        ("layers", "1 layers are too few for a pipeline of 4 ranks; take fewer ranks"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(walked: Any, name: str, said: str) -> None:
    assert said in walked[4]["refused"][name]


@pytest.mark.parametrize("size", SIZES)
def test_a_released_model_is_an_ordinary_one(walked: Any, size: int) -> None:
    ordinary, weights, (logits, expected) = walked[size]["released"]
    assert ordinary
    config = pipeline_walk.CASES["qwen2, untied"][0]
    whole = pipeline_walk.decoder(**config).state_dict()
    assert list(weights) == list(whole)
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert torch.equal(logits, expected)


def test_a_model_for_a_pipeline_is_not_put_on_the_device_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [loading_device(kind, "cuda") for kind in ("ddp", "pipeline")] == ["cuda", "cpu"]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert loading_device("pipeline", "cuda") == "cuda"

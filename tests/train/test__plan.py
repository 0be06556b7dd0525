from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mojiang.core.errors import Corrupted
from mojiang.model.decoder import Decoder
from mojiang.train._plan import (
    Plan,
    Shape,
    block_parameters,
    choose_shape,
    fastest_threads,
    predicted_loss,
    probe_speed,
)


def test_more_time_never_gives_a_smaller_model() -> None:
    sizes = [
        block_parameters(choose_shape(3_000_000, lambda s, t=seconds: t * 3e10 / block_parameters(s)))
        for seconds in (10, 100, 1000, 10_000, 100_000)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_small_corpus_gets_a_smaller_model_than_a_large_one() -> None:
    def speed(shape: Shape) -> float:
        return 3e13 / block_parameters(shape)

    assert block_parameters(choose_shape(50_000, speed)) < block_parameters(choose_shape(50_000_000, speed))


def test_predicted_loss_falls_with_parameters_and_tokens_and_repeats_are_worth_less() -> None:
    assert predicted_loss(2e6, 1e6, 1e6) > predicted_loss(4e6, 1e6, 1e6)
    assert predicted_loss(2e6, 1e6, 1e6) > predicted_loss(2e6, 2e6, 1e6) > predicted_loss(2e6, 2e6, 2e6)


def test_counted_parameters_are_those_of_the_model() -> None:
    shape = Shape(192, 3)
    config = shape.config(1000, 256, 0, 1)
    assert config.vocab_size == 1024
    model = Decoder(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_parameters
    assert block_parameters(shape) == config.num_parameters - model.model.embed_tokens.weight.numel()


def test_a_plan_survives_the_disk_and_a_torn_one_is_refused(tmp_path: Path) -> None:
    plan = Plan(Shape(128, 3), 2, 4096)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text('{"shape": 1}')
    with pytest.raises(Corrupted):
        Plan.load(tmp_path / "plan.json")


def test_the_probe_foretells_larger_shapes_to_be_slower() -> None:
    seconds_per_token = probe_speed(512, 1, 64, torch.float32, "cpu")
    assert 0 < seconds_per_token(Shape(128, 3)) < seconds_per_token(Shape(512, 7))
    assert fastest_threads(2, Shape(128, 3).config(512, 64, 0, 0), 1, 64, torch.float32) in (1, 2)

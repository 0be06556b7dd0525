"""Positions against transformers' tables, the papers' numbers and the definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.model._positions import (
    Rope,
    alibi_slopes,
    rotary_tables,
    rotate,
    sinusoidal_table,
    t5_buckets,
)

ROPES: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 1e6},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
        "original_max_position_embeddings": 128,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "truncate": False, "beta_fast": 16.0},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "attention_factor": 0.7},
    {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.8,
        "mscale_all_dim": 0.5, "beta_slow": 2.0,
    },
]  # fmt: skip


@pytest.mark.parametrize("given", ROPES, ids=lambda given: "-".join(map(str, given.values())))
@pytest.mark.parametrize("length", [16, 256, 400])
def test_rotary_tables_equal_transformers(given: dict[str, Any], length: int) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, rope_parameters={"rope_theta": 1e4, **given}
    )
    theirs = LlamaRotaryEmbedding(config)
    positions = torch.arange(length)[None]
    expected = theirs(torch.zeros(1), positions)
    rope = Rope.from_hf(config.to_dict())
    torch.testing.assert_close(rope.frequencies(32, positions)[0], theirs.inv_freq, rtol=1e-6, atol=0)
    assert rope.attention_scaling == pytest.approx(theirs.attention_scaling)
    for ours, other in zip(rotary_tables(positions, 32, rope, torch.float32), expected, strict=True):
        torch.testing.assert_close(ours[:, 0], other, rtol=1e-5, atol=2e-5)
    assert rope.to_hf() == config.rope_parameters


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 1, 1, 16, generator=generator).expand(1, 1, 30, 16) for _ in range(2))
    cos, sin = rotary_tables(torch.arange(30)[None], 16, Rope(), torch.float32)
    scores = rotate(q, cos, sin)[0, 0] @ rotate(k, cos, sin)[0, 0].T
    for distance in (0, 1, 13):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_a_row_of_dynamic_rope_does_not_depend_on_its_neighbours() -> None:
    rope = Rope.from_hf({"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 8})
    short, long = torch.arange(6), torch.arange(20)
    padded = torch.stack([torch.cat([short, torch.zeros(14, dtype=torch.long)]), long])
    together = rope.frequencies(8, padded)
    torch.testing.assert_close(together, torch.cat([rope.frequencies(8, short[None]), rope.frequencies(8, long[None])]))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Rope()),
        ({"rope_theta": 5e5, "rope_scaling": None}, Rope(5e5)),
        ({"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 2.0}}, Rope(100.0, "linear", 2.0)),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 64},
            Rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        ),
        (
            {
                "rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 16},
                "max_position_embeddings": 64,
            },
            Rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
        ),
    ],
)
def test_old_and_new_configs_are_read(config: dict[str, Any], expected: Rope) -> None:
    assert Rope.from_hf(config) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {"rope_type": "longrope"}},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ],
)
def test_what_is_not_computed_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Rope.from_hf({"max_position_embeddings": 64, **config})


def test_sinusoids_are_those_of_the_paper_and_of_marian() -> None:
    table, marian = sinusoidal_table(50, 12, interleaved=True), sinusoidal_table(50, 12)
    for position, place in ((0, 0), (7, 3), (49, 5)):
        angle = position / 10_000 ** (2 * place / 12)
        assert table[position, 2 * place].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[position, 2 * place + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert torch.equal(marian, torch.cat([table[:, 0::2], table[:, 1::2]], dim=1))
    transformers = pytest.importorskip("transformers.models.marian.modeling_marian")
    theirs = transformers.MarianSinusoidalPositionalEmbedding(50, 12)
    torch.testing.assert_close(marian, theirs.create_weight().float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 20])
def test_alibi_slopes_equal_transformers(heads: int) -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(heads), theirs)


def test_alibi_slopes_of_eight_heads_are_the_papers() -> None:
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-n for n in range(1, 9)]))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (16, 40), (8, 20)])
def test_buckets_equal_transformers(bidirectional: bool, buckets: int, distance: int) -> None:
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    relative = torch.arange(200)[None] - torch.arange(200)[:, None]
    expected = attention._relative_position_bucket(relative, bidirectional, buckets, distance)
    ours = t5_buckets(200, 200, bidirectional=bidirectional, num_buckets=buckets, max_distance=distance)
    assert torch.equal(ours, expected)
    later = t5_buckets(3, 200, bidirectional=bidirectional, num_buckets=buckets, max_distance=distance, first_query=150)
    assert torch.equal(later, expected[150:153])

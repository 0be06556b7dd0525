"""What the sides work on is what it says: weights, parameters, FLOPs, rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

Import = Callable[[str], ModuleType]


def test_the_weights_load_into_transformers_completely(bench: Import) -> None:
    from transformers import AutoModelForCausalLM

    data = bench("_data")
    folder = data.model_folder(data.TINY)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.num_parameters() == data.num_parameters(data.TINY)
    assert model.model.layers[1].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_benchmark_shape_has_30_million_parameters(bench: Import) -> None:
    data = bench("_data")
    assert round(data.num_parameters(data.llama(512, 8, 8, 1408, 8192, 512)) / 1e6) == 30
    assert round(data.num_parameters(data.SMOL) / 1e6, 1) == 134.5


def test_flops_are_those_torch_counts(bench: Import) -> None:
    """Causal attention is counted at half of what PyTorch's counter, which knows no mask, says of it."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    data = bench("_data")
    shape, T = data.TINY, 32
    config = LlamaConfig(
        **{k: v for k, v in shape.items() if k != "rope_theta"}, tie_word_embeddings=True, attn_implementation="eager"
    )
    model = LlamaForCausalLM(config)
    tokens = torch.arange(T)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    attention = 12 * shape["num_hidden_layers"] * shape["num_attention_heads"] * shape["head_dim"] * T * T
    # The rotary tables and the first layer's input gradient are the small rest.
    assert data.flops_per_token(shape, T) * T == pytest.approx(counter.get_total_flops() - attention / 2, rel=0.02)


def test_rows_follow_each_other(bench: Import) -> None:
    data = bench("_data")
    rows = np.load(data.token_rows(16, 5, vocab=100, quick=True))
    assert rows.shape == (5, 17)
    assert (rows[1:, 0] == rows[:-1, -1]).all()  # the last target of a row is the first input of the next


def test_conversations_train_answers_and_hold_some_out(bench: Import) -> None:
    data = bench("_data")
    saved = np.load(data.conversations(600, 64, quick=True))
    assert saved["lengths"].max() <= 64
    assert 500 < saved["lengths"][~saved["held_out"]].sum() <= 600
    assert saved["held_out"].any()
    assert len(saved["tokens"]) == len(saved["trained"]) == saved["lengths"].sum()


def test_requirements_are_pinned_and_name_no_address() -> None:
    for path in sorted((Path(__file__).parents[2] / "bench").glob("requirements-*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or line.count("==") == 1, (path.name, line)
            assert "://" not in line


def test_results_have_one_form() -> None:
    fields = {"work", "metric", "unit", "ours", "peer", "peer_name", "ratio", "goal"}
    for path in sorted((Path(__file__).parents[2] / "bench" / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert {"commit", "machine", "versions", "rows"} <= set(result)
        for row in result["rows"]:
            assert fields <= set(row) <= fields | {"ours_range", "peer_range", "note"}
            if row["ours"] and row["peer"]:
                assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=0.02)

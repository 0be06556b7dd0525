"""DistilBERT against transformers on the same weights."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.model.distilbert import DistilBert, DistilBertConfig

transformers = pytest.importorskip("transformers")

SHAPE = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 24,
         "dropout": 0.11, "attention_dropout": 0.12, "qa_dropout": 0.13, "seq_classif_dropout": 0.14}  # fmt: skip
NAMES = ["DistilBertForMaskedLM", "DistilBertForSequenceClassification", "DistilBertForTokenClassification",
         "DistilBertForQuestionAnswering"]  # fmt: skip


def tiny(**changes: Any) -> DistilBert:
    return DistilBert(DistilBertConfig(**{**SHAPE, **changes})).init_weights(0)


def test_defaults_are_those_of_transformers(parity: ModuleType) -> None:
    parity.assert_equal_defaults(DistilBertConfig(), transformers.DistilBertConfig())


@pytest.mark.parametrize("name", NAMES)
def test_every_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path, name: str) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", name, transformers.DistilBertConfig(**SHAPE, activation="relu"))
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_step(ours, theirs, x)
    parity.assert_equal_dropout(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, name), x)
    parity.assert_packed_equals_alone(ours)


def test_a_model_without_a_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", "DistilBertModel", transformers.DistilBertConfig(**SHAPE))
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, "DistilBertModel"), x)
    parity.assert_head_can_be_changed(tmp_path / "theirs", ours)


def test_positions_can_begin_as_sines_and_cosines() -> None:
    theirs = transformers.DistilBertModel(transformers.DistilBertConfig(**SHAPE, sinusoidal_pos_embds=True))
    ours = tiny(sinusoidal_pos_embds=True)
    expected = theirs.embeddings.position_embeddings.weight
    torch.testing.assert_close(ours.trunk.embeddings.position_embeddings.weight, expected)


@pytest.mark.parametrize(
    "change", [{"activation": "swiglu"}, {"n_heads": 3}, {"tie_word_embeddings": False}], ids=lambda change: str(change)
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        DistilBert.from_hf({**tiny().config.to_hf(), **change}, "masked_lm")


def test_layers_compile_to_one_graph(parity: ModuleType) -> None:
    parity.assert_compiled_once(tiny())

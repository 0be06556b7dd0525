"""ALBERT against transformers on the same weights; its shared layers and small word vectors."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mojiang.model.albert import Albert, AlbertConfig

transformers = pytest.importorskip("transformers")

NAMES = ["AlbertForMaskedLM", "AlbertForPreTraining", "AlbertForSequenceClassification",
         "AlbertForTokenClassification", "AlbertForQuestionAnswering"]  # fmt: skip


def tiny(**changes: Any) -> Albert:
    shape = {"max_position_embeddings": 24, "embedding_size": 8, **changes}
    return Albert(AlbertConfig(50, 16, 3, 2, 32, **shape)).init_weights(0)


def test_defaults_are_those_of_transformers(parity: ModuleType) -> None:
    parity.assert_equal_defaults(AlbertConfig(), transformers.AlbertConfig())


@pytest.mark.parametrize("name", NAMES)
def test_every_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path, name: str) -> None:
    config = transformers.AlbertConfig(**parity.SHAPE, embedding_size=8, classifier_dropout_prob=0.13)
    ours, theirs = parity.peers(tmp_path / "theirs", name, config)
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_step(ours, theirs, x)
    parity.assert_equal_dropout(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, name), x)
    parity.assert_packed_equals_alone(ours)


@pytest.mark.parametrize(("depth", "groups", "inner"), [(6, 1, 1), (6, 3, 1), (4, 2, 2), (5, 2, 1)])
def test_layers_are_shared_by_group(parity: ModuleType, tmp_path: Path, depth: int, groups: int, inner: int) -> None:
    shape = {**parity.SHAPE, "num_hidden_layers": depth, "num_hidden_groups": groups, "inner_group_num": inner}
    config = transformers.AlbertConfig(**shape, embedding_size=8)
    ours, theirs = parity.peers(tmp_path / "theirs", "AlbertModel", config)
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    assert len(ours.blocks()) == groups * inner
    assert ours.num_parameters() == theirs.num_parameters()
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, "AlbertModel"), x)
    parity.assert_head_can_be_changed(tmp_path / "theirs", ours)


def test_parameters_do_not_grow_with_depth() -> None:
    deep = Albert(AlbertConfig(50, 16, 30, 2, 32, max_position_embeddings=24, embedding_size=8))
    assert deep.num_parameters() == tiny().num_parameters()


def test_the_vocabulary_is_scored_from_vectors_of_the_size_of_words() -> None:
    model = tiny(head="masked_lm")
    assert model.head_input(torch.ones(4, 16)).shape == (4, 8)
    assert model.head.weight is model.trunk.embeddings.word_embeddings.weight


def test_a_shared_layer_compiles_once(parity: ModuleType) -> None:
    parity.assert_compiled_once(tiny())

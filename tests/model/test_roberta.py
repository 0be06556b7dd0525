"""RoBERTa against transformers on the same weights; its positions."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.model.roberta import Roberta, RobertaConfig

transformers = pytest.importorskip("transformers")

NAMES = ["RobertaForMaskedLM", "RobertaForSequenceClassification", "RobertaForTokenClassification",
         "RobertaForQuestionAnswering"]  # fmt: skip


def tiny(**changes: Any) -> Roberta:
    return Roberta(RobertaConfig(50, 16, 3, 2, 32, max_position_embeddings=24, **changes)).init_weights(0)


def test_defaults_are_those_of_transformers(parity: ModuleType) -> None:
    parity.assert_equal_defaults(RobertaConfig(), transformers.RobertaConfig())


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_every_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path, name: str, segments: int) -> None:
    """With one segment type, as official checkpoints have it, segments are passed over."""
    config = transformers.RobertaConfig(**parity.SHAPE, type_vocab_size=segments)
    ours, theirs = parity.peers(tmp_path / "theirs", name, config)
    x = parity.inputs(pad=1)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_step(ours, theirs, x)
    parity.assert_equal_dropout(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, name), x)
    parity.assert_packed_equals_alone(ours)


def test_a_model_without_a_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", "RobertaModel", transformers.RobertaConfig(**parity.SHAPE))
    x = parity.inputs(pad=1)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, "RobertaModel"), x)
    parity.assert_head_can_be_changed(tmp_path / "theirs", ours)


def test_positions_count_from_zero_and_begin_after_that_of_padding() -> None:
    model, tokens = tiny(), torch.tensor([[0, 9, 8, 2, 1, 1]])
    read = model.trunk.embeddings.position_embeddings
    seen: list[torch.Tensor] = []
    read.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    hidden = model(tokens, mask=torch.tensor([[0, 0, 4]]))
    again = model(tokens, torch.arange(6)[None], torch.tensor([[0, 0, 4]]))
    # fairseq's make_positions: padding stays at its own index, the others count on from there
    assert [positions.tolist() for positions in seen] == [[[2, 3, 4, 5, 1, 1]], [[2, 3, 4, 5, 6, 7]]]
    torch.testing.assert_close(hidden[:, :4], again[:, :4])


def test_the_position_table_has_room_for_fewer_tokens_than_it_has_rows() -> None:
    model = tiny()
    assert model(torch.full((1, 22), 5)).shape == (1, 22, 16)
    with pytest.raises(BadInput, match="23 tokens.* 22 positions"):
        model(torch.full((1, 23), 5))


def test_a_config_without_padding_is_refused() -> None:
    with pytest.raises(BadInput, match="pad_token_id"):
        Roberta.from_hf({**tiny().config.to_hf(), "pad_token_id": None})


def test_layers_compile_to_one_graph(parity: ModuleType) -> None:
    parity.assert_compiled_once(tiny())

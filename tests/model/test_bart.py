"""BART against transformers on the same weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput
from mojiang.model.bart import Bart, BartConfig
from mojiang.model.load import load_model

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))
import seq2seq_parity as parity  # noqa: E402

HEADS = ["BartForConditionalGeneration", "BartForSequenceClassification", "BartForQuestionAnswering"]


def config(**changes: Any) -> Any:
    return transformers.BartConfig(**{**parity.SHAPE, **changes})


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("changes", [{}, {"scale_embedding": True, "activation_function": "relu", "num_labels": 4}])
def test_every_head_is_that_of_transformers(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", name, config(**changes))
    parity.assert_equal_step(ours, theirs)
    parity.assert_both_read_it(tmp_path / "ours", ours, name)


def test_two_labels_are_written_and_read(tmp_path: Path) -> None:
    """transformers 5.23 leaves two labels out of the config and then reads the default, three, which does not fit."""
    read = BartConfig.from_hf(config().to_dict(), "sequence_classification", num_labels=2)
    parity.assert_both_read_it(tmp_path, parity.randomized(Bart(read)), HEADS[1])


def test_the_static_bias_is_part_of_the_head(tmp_path: Path) -> None:
    """So that a loss computed from `head.weight` and `head.bias` is that of the logits."""
    model, _ = parity.peers(tmp_path, HEADS[0], config())
    hidden = model(torch.arange(3, 12)[None])
    by_hand = model.head_input(hidden) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model.logits(hidden), by_hand)
    assert model.head.bias.abs().min() > 0
    assert not model.head.bias.requires_grad


def test_official_checkpoints_are_read_under_their_old_names(tmp_path: Path) -> None:
    """bart-base names a model without a head: no prefix, the embedding three times, versions, no static bias."""
    _, theirs = parity.peers(tmp_path, HEADS[0], config())
    theirs.final_logits_bias.zero_()
    state = {name.removeprefix("model."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    del state["final_logits_bias"]
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_tokens.weight"] = state["shared.weight"].clone()
        state[f"{side}.version"] = torch.tensor([3.0])
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((tmp_path / "config.json").read_text())
    official = {"architectures": ["BartModel"], "normalize_before": False, "normalize_embedding": True}
    (tmp_path / "config.json").write_text(json.dumps(written | official))
    parity.assert_equal_step(load_model(tmp_path), theirs)


def test_a_projection_that_is_not_the_embedding_is_refused(tmp_path: Path) -> None:
    parity.peers(tmp_path, HEADS[0], config())
    state = load_file(tmp_path / "model.safetensors")
    state["lm_head.weight"] = state["model.shared.weight"] + 1
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lm_head\.weight is not model\.shared\.weight"):
        load_model(tmp_path)


def test_another_head_takes_the_body_along(tmp_path: Path, caplog: Any) -> None:
    ours, _ = parity.peers(tmp_path, HEADS[0], config())
    classifier: Any = load_model(tmp_path, head="sequence_classification", num_labels=5)
    tokens = torch.arange(3, 11)[None]
    hidden = ours(tokens)
    assert torch.equal(classifier(tokens), hidden)
    assert classifier.scores(hidden).shape == (1, 5)
    new = {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
    assert {f"classification_head.{name}" for name in new} == set(caplog.messages[-1].split(": ")[1].split(", "))


def test_packed_pairs_do_not_see_each_other(tmp_path: Path) -> None:
    parity.assert_packed_equals_alone(parity.peers(tmp_path / "lm", HEADS[0], config())[0])
    parity.assert_packed_texts_score_as_alone(parity.peers(tmp_path / "c", HEADS[1], config())[0])


def test_a_cache_changes_nothing(tmp_path: Path) -> None:
    parity.assert_a_cache_changes_nothing(parity.peers(tmp_path, HEADS[0], config())[0])


def test_layers_compile_to_two_graphs(tmp_path: Path) -> None:
    model, _ = parity.peers(tmp_path, HEADS[0], config(encoder_layers=4, decoder_layers=4))
    parity.assert_compiled_once(model, graphs=2)


def test_dropout_keeps_to_its_rows(tmp_path: Path) -> None:
    parity.assert_dropout_keeps_to_its_rows(parity.peers(tmp_path, HEADS[0], config(dropout=0.3))[0])


def test_padding_begins_and_stays_without_a_vector() -> None:
    model = Bart(BartConfig.from_hf(config().to_dict())).init_weights(0)
    assert torch.equal(model.model.shared.weight[1], torch.zeros(16))
    assert model.model.shared.weight[2:].std().item() == pytest.approx(0.02, rel=0.1)
    model(torch.tensor([[5, 1, 1]]), torch.tensor([[1, 6]])).sum().backward()
    assert torch.equal(model.model.shared.weight.grad[1], torch.zeros(16))


def test_source_masks_that_say_too_little_are_refused(tmp_path: Path) -> None:
    model, _ = parity.peers(tmp_path, HEADS[0], config())
    tokens = torch.arange(3, 9)[None]
    with pytest.raises(BadInput, match=r"\(6, 6\)"):
        model(tokens, tokens, mask=torch.ones(6, 6, dtype=torch.bool))
    two, one = torch.tensor([[0, 0, 3], [0, 3, 6]]), torch.tensor([[0, 0, 6]])
    with pytest.raises(BadInput, match="2 spans and the target 1"):
        model(tokens, tokens, mask=two, target_mask=one)


def test_texts_beyond_its_positions_are_refused() -> None:
    model = Bart(BartConfig.from_hf(config().to_dict()))
    with pytest.raises(BadInput, match="33 positions"):
        model(torch.full((1, 33), 5))


@pytest.mark.parametrize(
    "change",
    [
        {"normalize_before": True}, {"add_final_layer_norm": True}, {"encoder_layerdrop": 0.1},
        {"tie_word_embeddings": False}, {"activation_function": "swiglu"},
    ],
)  # fmt: skip
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(change)).replace("activation_function", "swiglu")):
        BartConfig.from_hf(config().to_dict() | change)

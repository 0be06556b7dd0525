"""Marian against transformers on the same weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput
from mojiang.model.load import load_model, save_model
from mojiang.model.marian import Marian, MarianConfig

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))
import seq2seq_parity as parity  # noqa: E402

NAME = "MarianMTModel"
SPECIAL = {"pad_token_id": 39, "decoder_start_token_id": 39}
OWN_EMBEDDINGS = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 44}
KINDS = {
    "shared": {},
    "opus-mt": {"scale_embedding": True, "activation_function": "swish"},
    "own embeddings": OWN_EMBEDDINGS,
    "untied": {**OWN_EMBEDDINGS, "tie_word_embeddings": False},
}


def config(**changes: Any) -> Any:
    return transformers.MarianConfig(**{**parity.SHAPE, **SPECIAL, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_that_of_transformers(tmp_path: Path, kind: str) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", NAME, config(**KINDS[kind]))
    parity.assert_equal_step(ours, theirs)
    parity.assert_both_read_it(tmp_path / "ours", ours, NAME)


def test_official_checkpoints_are_read_under_their_old_names(tmp_path: Path) -> None:
    """Those of OPUS-MT hold the sinusoids and the embedding several times."""
    _, theirs = parity.peers(tmp_path, NAME, config())
    state = load_file(tmp_path / "model.safetensors")
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = theirs.state_dict()[f"model.{side}.embed_positions.weight"]
        state[f"model.{side}.embed_tokens.weight"] = state["model.shared.weight"].clone()
    state["lm_head.weight"] = state["model.shared.weight"].clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((tmp_path / "config.json").read_text())
    official = {"static_position_embeddings": True, "normalize_embedding": False, "add_bias_logits": False}
    (tmp_path / "config.json").write_text(json.dumps(written | official))
    parity.assert_equal_step(load_model(tmp_path), theirs)


def test_packed_pairs_do_not_see_each_other(tmp_path: Path) -> None:
    parity.assert_packed_equals_alone(parity.peers(tmp_path, NAME, config())[0])


def test_a_cache_changes_nothing(tmp_path: Path) -> None:
    parity.assert_a_cache_changes_nothing(parity.peers(tmp_path, NAME, config())[0])


def test_layers_compile_to_two_graphs(tmp_path: Path) -> None:
    model, _ = parity.peers(tmp_path, NAME, config(encoder_layers=4, decoder_layers=4))
    parity.assert_compiled_once(model, graphs=2)


def test_dropout_keeps_to_its_rows(tmp_path: Path) -> None:
    parity.assert_dropout_keeps_to_its_rows(parity.peers(tmp_path, NAME, config(dropout=0.3))[0])


def test_what_is_saved_tells_other_tools_not_to_write_padding(tmp_path: Path) -> None:
    save_model(Marian(MarianConfig.from_hf(config().to_dict())).init_weights(0), None, tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["bad_words_ids"] == [[39]]
    assert generation["decoder_start_token_id"] == 39
    assert generation["forced_eos_token_id"] == 0


def test_a_shared_embedding_that_is_no_projection_is_refused() -> None:
    with pytest.raises(BadInput, match="tie_word_embeddings"):
        MarianConfig.from_hf(config().to_dict() | {"tie_word_embeddings": False})

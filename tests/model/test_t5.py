"""T5 against transformers on the same weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput
from mojiang.model.load import load_model, save_model
from mojiang.model.t5 import T5, T5Config

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))
import seq2seq_parity as parity  # noqa: E402

SHAPE = {
    "vocab_size": parity.VOCABULARY, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2,
    "num_heads": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0, "num_labels": 2,
}  # fmt: skip
FIRST_T5, T5_V11 = {}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
HEADS = ["T5ForConditionalGeneration", "T5ForSequenceClassification", "T5ForQuestionAnswering"]


def untied(folder: Path) -> Any:
    """A v1.1 checkpoint with a vocabulary projection of its own, as its authors published them."""
    _, theirs = parity.peers(folder, HEADS[0], transformers.T5Config(**SHAPE, **T5_V11))
    state = load_file(folder / "model.safetensors")
    projection = torch.randn(state["shared.weight"].shape, generator=torch.Generator().manual_seed(5))
    state["lm_head.weight"] = 0.3 * projection
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", [FIRST_T5, T5_V11], ids=["t5", "v1.1"])
def test_every_head_is_that_of_transformers(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", name, transformers.T5Config(**SHAPE, **kind))
    parity.assert_equal_step(ours, theirs)
    parity.assert_both_read_it(tmp_path / "ours", ours, name)


@pytest.mark.parametrize("activation", ["gelu", "gated-silu", "gated-relu"])
def test_other_feed_forwards_are_those_of_transformers(tmp_path: Path, activation: str) -> None:
    config = transformers.T5Config(**SHAPE, feed_forward_proj=activation)
    parity.assert_equal_step(*parity.peers(tmp_path, HEADS[0], config))


@pytest.mark.parametrize("says_tied", [True, False])
def test_an_untied_vocabulary_stays_untied(tmp_path: Path, says_tied: bool) -> None:
    """transformers 5 writes that every T5 is tied; whether one is, the file shows."""
    theirs = untied(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    if not says_tied:  # as before transformers 5
        config["tie_word_embeddings"] = False
        del config["scale_decoder_outputs"]
        (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    ours: Any = load_model(tmp_path / "theirs")
    assert ours.lm_head.weight is not ours.shared.weight
    assert not ours.config.scale_decoder_outputs
    parity.assert_equal_step(ours, theirs)
    parity.assert_both_read_it(tmp_path / "ours", ours, HEADS[0])


def test_official_checkpoints_are_read_under_their_old_names(tmp_path: Path) -> None:
    """They hold the embedding three more times, and a bias of cross-attention that nothing reads."""
    _, theirs = parity.peers(tmp_path, HEADS[0], transformers.T5Config(**SHAPE))
    state = load_file(tmp_path / "model.safetensors")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        state[name] = state["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file(state | {unused: torch.ones(8, 2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours: Any = load_model(tmp_path)
    assert ours.lm_head.weight is ours.shared.weight
    parity.assert_equal_step(ours, theirs)


def test_another_head_takes_the_body_along(tmp_path: Path) -> None:
    """A classifier has its weights below a name of their own; to it and back again they stay the same."""
    ours, _ = parity.peers(tmp_path / "lm", HEADS[0], transformers.T5Config(**SHAPE))
    classifier: Any = load_model(tmp_path / "lm", head="sequence_classification", num_labels=5)
    tokens = torch.arange(3, 11)[None]
    expected = ours(tokens)
    assert torch.equal(classifier(tokens), expected)
    assert classifier.scores(expected).shape == (1, 5)
    save_model(classifier, None, tmp_path / "classifier")
    again: Any = load_model(tmp_path / "classifier", head="seq2seq_lm")
    assert torch.equal(again.logits(again(tokens)), ours.logits(expected))


def model_of(tmp_path: Path, **changes: Any) -> Any:
    return parity.peers(tmp_path, HEADS[0], transformers.T5Config(**{**SHAPE, **changes}))[0]


def test_packed_pairs_do_not_see_each_other(tmp_path: Path) -> None:
    parity.assert_packed_equals_alone(model_of(tmp_path))
    classifier, _ = parity.peers(tmp_path / "c", HEADS[1], transformers.T5Config(**SHAPE))
    parity.assert_packed_texts_score_as_alone(classifier)


def test_a_cache_changes_nothing(tmp_path: Path) -> None:
    parity.assert_a_cache_changes_nothing(model_of(tmp_path))


def test_layers_compile_to_few_graphs(tmp_path: Path) -> None:
    """Each side's first layer, which makes the position bias, and each side's others."""
    parity.assert_compiled_once(model_of(tmp_path, num_layers=4, num_decoder_layers=4), graphs=4)


def test_dropout_keeps_to_its_rows(tmp_path: Path) -> None:
    parity.assert_dropout_keeps_to_its_rows(model_of(tmp_path, dropout_rate=0.3))


def test_it_begins_as_mesh_tensorflow_begins() -> None:
    """Deviations of the initial weights against those of transformers, same on every call."""
    config = transformers.T5Config(vocab_size=500, d_model=256, d_kv=32, num_layers=1)
    theirs = transformers.T5ForConditionalGeneration(config).state_dict()
    ours = T5(T5Config.from_hf(config.to_dict())).init_weights(3)
    again = T5(T5Config.from_hf(config.to_dict())).init_weights(3).state_dict()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, again[name])
        if parameter.dim() == 1:
            assert torch.equal(parameter, theirs[name])
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1), name


@pytest.mark.parametrize("change", ["geglu-gelu", "gated-maxout", "softmax"])
def test_what_it_does_not_compute_is_refused(change: str) -> None:
    with pytest.raises(BadInput, match=change.removeprefix("gated-")):
        T5Config.from_hf({"feed_forward_proj": change})

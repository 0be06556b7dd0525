from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput, Corrupted, NotFound
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.load import load_causal_lm, load_model, save_model

TOKENS = torch.arange(20).reshape(2, 10)


def made(folder: Path, **changes: object) -> Decoder:
    values = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "head_dim": 8,
    }  # fmt: skip
    model = Decoder(DecoderConfig(**{**values, **changes})).init_weights(0)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    save_model(model, None, folder)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(TOKENS))


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"model_type": "llama"}])
def test_what_is_saved_is_what_transformers_computes(tmp_path: Path, changes: dict[str, object]) -> None:
    from transformers import AutoModelForCausalLM

    expected = logits(made(tmp_path, **changes))
    assert torch.equal(logits(load_model(tmp_path)), expected)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(theirs(TOKENS).logits, expected, atol=1e-4)


def test_a_folder_that_transformers_saved_in_shards_is_read(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    made(tmp_path / "a")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    theirs.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert (tmp_path / "b" / "model.safetensors.index.json").exists()
    with torch.no_grad():
        assert torch.allclose(theirs(TOKENS).logits, logits(load_model(tmp_path / "b")), atol=1e-4)


def test_large_models_are_saved_in_shards_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = made(tmp_path / "whole")
    save_model(model, None, tmp_path / "shards", shard_bytes=20_000)
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    assert all(sum(tensor.nbytes for tensor in load_file(file).values()) <= 20_000 for file in files)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    with torch.no_grad():
        assert torch.allclose(theirs(TOKENS).logits, logits(model), atol=1e-4)
    assert torch.equal(logits(load_model(tmp_path / "shards")), logits(model))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    made(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in state
    model = load_model(tmp_path)
    assert model.head.weight is model.get_parameter("model.embed_tokens.weight")
    # Some files have the weight under its other name, or twice.
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors")
    assert torch.equal(logits(load_model(tmp_path)), logits(model))
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


def test_names_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    made(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["model.extra"] = state.pop("model.norm.weight")
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BadInput) as caught:
        load_model(tmp_path)
    for part in ("missing: model.norm.weight", "unexpected: model.extra", "up_proj.weight is (3, 3)"):
        assert part in caught.value.message
    with pytest.raises(BadInput, match="model.norm.weight"):
        load_model(tmp_path, head="sequence_classification")


@pytest.mark.parametrize(
    ("head", "fresh"),
    [
        ("sequence_classification", {"score.weight"}),
        ("token_classification", {"score.weight", "score.bias"}),
        ("question_answering", {"qa_outputs.weight", "qa_outputs.bias"}),
        ("embedding", set()),
    ],
)
def test_another_head_is_new_and_nothing_else(
    tmp_path: Path, head: Any, fresh: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = made(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = load_model(tmp_path, head=head, num_labels=5)
    assert {name for name in model.state_dict() if name in caplog.text} == fresh
    assert model.config.head == head
    with torch.no_grad():
        assert torch.equal(model(TOKENS), source(TOKENS))
    again = load_model(tmp_path, head=head, num_labels=5).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    for name in fresh:
        assert len(again[name]) == (2 if head == "question_answering" else 5)
        assert (again[name].count_nonzero() == 0) == name.endswith("bias")


def test_going_from_head_to_head(tmp_path: Path) -> None:
    """A task's head never serves another task; a language model's comes back from its embeddings if they are tied."""
    source = made(tmp_path / "lm")
    judge = load_model(tmp_path / "lm", head="sequence_classification", num_labels=3)
    with torch.no_grad():
        judge.get_parameter("score.weight").add_(1.0)
    save_model(judge, None, tmp_path / "judge")
    assert torch.equal(load_model(tmp_path / "judge").state_dict()["score.weight"], judge.state_dict()["score.weight"])
    tagger = load_model(tmp_path / "judge", head="token_classification")
    assert tagger.config.num_labels == 3
    assert not torch.equal(tagger.state_dict()["score.weight"], judge.state_dict()["score.weight"])
    more = load_model(tmp_path / "judge", num_labels=4)
    assert more.state_dict()["score.weight"].shape == (4, 32)
    save_model(load_model(tmp_path / "lm", head="question_answering"), None, tmp_path / "reader")
    assert torch.equal(logits(load_model(tmp_path / "reader", head="causal_lm")), logits(source))


def test_labels_travel_with_the_model(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    made(tmp_path, head="sequence_classification", num_labels=2, id2label={0: "bad", 1: "good"}, pad_token_id=0)
    assert load_model(tmp_path).config.id2label == {0: "bad", 1: "good"}
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.id2label == {0: "bad", 1: "good"}


def test_half_precision_files_give_fp32_masters(tmp_path: Path) -> None:
    made(tmp_path)
    state = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    model = load_model(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(TOKENS).dtype == torch.bfloat16


def test_only_language_models_are_given_to_those_who_generate(tmp_path: Path) -> None:
    expected = logits(made(tmp_path / "lm"))
    assert torch.equal(logits(load_causal_lm(tmp_path / "lm")), expected)
    made(tmp_path / "judge", head="sequence_classification")
    with pytest.raises(BadInput, match="sequence_classification"):
        load_causal_lm(tmp_path / "judge")


def test_folders_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json"):
        load_model(tmp_path)
    made(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(Corrupted):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(NotFound, match="pickled") as caught:
        load_model(tmp_path)
    assert "safetensors" in caught.value.hint
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(BadInput, match="mamba"):
        load_model(tmp_path)


def test_the_tokenizer_travels_with_the_model(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    (tokenizer / "report.json").write_text("{}")
    save_model(made(tmp_path / "a"), tokenizer, tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput, Corrupted, NotFound
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.load import load_model, save_model

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


def logits(model: Decoder) -> torch.Tensor:
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


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    made(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


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

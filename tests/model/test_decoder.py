"""The decoder against transformers on the same weights, and packed documents against each document alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mojiang.core.errors import BadInput
from mojiang.model._layers import set_dropout_keys
from mojiang.model.decoder import Decoder, DecoderConfig, document_mask

sys.path.insert(0, str(Path(__file__).parent))
import decoder_parity as parity

FAMILIES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 32, "num_labels": 3, "pad_token_id": parity.PAD,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def their_config(family: str, **changes: Any) -> Any:
    return getattr(transformers, f"{FAMILIES[family]}Config")(**{**SHAPE, **changes})


def random_decoder(**changes: Any) -> Decoder:
    settings = {
        "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 16, **changes,
    }  # fmt: skip
    model = Decoder(DecoderConfig(**settings)).init_weights(seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_logits_equal_transformers(family: str, tied: bool, groups: int) -> None:
    ours = random_decoder(model_type=family, tie_word_embeddings=tied, num_key_value_heads=4 // groups)
    name = FAMILIES[family]
    config, peer = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")
    theirs = peer(config(**ours.config.to_hf())).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)  # the names are the same, none is missing
    tokens_BT = torch.randint(0, 96, (2, 33), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (ours.logits(ours(tokens_BT)) - theirs(tokens_BT).logits).abs().max()
    assert difference < 1e-4
    assert ours.config.num_parameters == ours.num_parameters()
    assert DecoderConfig.from_hf(theirs.config.to_dict()) == ours.config


@pytest.mark.parametrize("head", parity.HEADS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_outputs_and_gradients_of_every_head_equal_transformers(tmp_path: Path, family: str, head: str) -> None:
    name = f"{FAMILIES[family]}For{head}"
    ours, theirs = parity.peers(tmp_path / "theirs", name, their_config(family))
    parity.assert_equal_outputs(ours, theirs)
    parity.assert_equal_step(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, name)
    assert ours.config.num_parameters == ours.num_parameters()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_models_without_a_head_are_read_and_written(tmp_path: Path, family: str) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", f"{FAMILIES[family]}Model", their_config(family))
    parity.assert_equal_outputs(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, f"{FAMILIES[family]}Model")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
        ("llama", {"hidden_act": "gelu", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
        ("qwen3", {"attention_bias": True, "head_dim": 16, "eos_token_id": [2, 3]}),
    ],
)
def test_settings_equal_transformers(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    name = f"{FAMILIES[family]}ForCausalLM"
    ours, theirs = parity.peers(tmp_path / "theirs", name, their_config(family, **changes))
    parity.assert_equal_outputs(ours, theirs)
    parity.assert_equal_step(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, name)
    assert ours.config.num_parameters == ours.num_parameters()
    assert getattr(transformers, name).from_pretrained(tmp_path / "ours").config.eos_token_id == (
        changes.get("eos_token_id", 2)
    )


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8,
        "rope_theta": 1000.0,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 8},
    "default": {"rope_theta": 1e6},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(ROPES))
@pytest.mark.parametrize("length", [20, 45])
def test_stretched_rope_equals_transformers(tmp_path: Path, kind: str, length: int) -> None:
    """Also past the trained context, from the new and the old way to write it in config.json."""
    rope = {"rope_type": kind, "rope_theta": 1e4, **ROPES[kind]}
    ours, theirs = parity.peers(tmp_path, "LlamaForCausalLM", their_config("llama", rope_parameters=rope, head_dim=16))
    tokens = torch.randint(1, 50, (1, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    old = {**theirs.config.to_dict(), "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    del old["rope_parameters"]
    assert DecoderConfig.from_hf(old).rope == ours.config.rope
    assert transformers.LlamaConfig(**ours.config.to_hf()).rope_parameters == theirs.config.rope_parameters


def test_packed_documents_do_not_see_each_other() -> None:
    """Both ways to say where documents end (a mask, spans) give each document the logits it has alone."""
    model, lengths = random_decoder(), [7, 1, 12, 4]
    documents = [torch.randint(0, 96, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
    alone = torch.cat([model.logits(model(document)) for document in documents], dim=1)
    row = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    ends = torch.tensor(lengths).cumsum(0)
    spans = torch.stack([torch.zeros_like(ends), ends - torch.tensor(lengths), ends], dim=1)
    for mask in (document_mask(numbers), spans):
        packed = model.logits(model(row, positions_BT=positions, mask=mask))
        torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_each_packed_text_is_classified_as_it_is_alone() -> None:
    model = random_decoder(head="sequence_classification", num_labels=3)
    row = torch.randint(0, 96, (1, 10), generator=torch.Generator().manual_seed(4))
    positions, spans = torch.tensor([[*range(4), *range(6)]]), torch.tensor([[0, 0, 4], [0, 4, 10], [0, 10, 10]])
    alone = torch.cat([model.scores(model(text)) for text in row.split([4, 6], dim=1)])
    packed = model.scores(model(row, positions, spans), spans)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


def test_nothing_looks_ahead() -> None:
    model = random_decoder()
    tokens = torch.randint(0, 96, (1, 20), generator=torch.Generator().manual_seed(3))
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 96
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_all_blocks_compile_to_one_graph(family: str) -> None:
    from torch._dynamo.testing import CompileCounter

    model, counter = random_decoder(model_type=family), CompileCounter()
    tokens, spans = torch.arange(24).reshape(2, 12), torch.tensor([[0, 0, 12], [1, 0, 5], [1, 5, 12]])
    with torch.no_grad():
        expected = model(tokens, mask=spans)
        for block in model.blocks():
            block.compile(backend=counter, fullgraph=True, dynamic=False)
        torch.testing.assert_close(model(tokens, mask=spans), expected)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_tags_are_trained_with_dropout() -> None:
    model = random_decoder(head="token_classification", num_labels=4).train()
    hidden = model(torch.arange(12).reshape(2, 6))
    quiet = model.scores(hidden)
    set_dropout_keys(model, torch.tensor([3, 4]))
    assert not torch.equal(model.scores(hidden), quiet)
    assert torch.equal(model.eval().scores(hidden), quiet)


def test_it_begins_as_the_identity_and_the_same_everywhere() -> None:
    config = DecoderConfig(96, 64, 2, 4, 2, 128, 16, attention_bias=True, model_type="llama")
    model, again = Decoder(config).init_weights(3), Decoder(config).init_weights(3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    tokens = torch.arange(10)[None]
    embedded = model.model.norm(model.model.embed_tokens(tokens))
    torch.testing.assert_close(model(tokens), embedded)
    assert model.model.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt_neox"},
        {"hidden_act": "gelu_10"},
        {"num_attention_heads": 3},
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"partial_rotary_factor": 0.5},
        {"use_sliding_window": True},
        {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ],
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        DecoderConfig.from_hf({**random_decoder().config.to_hf(), **change})


def test_a_missing_key_is_named() -> None:
    config = random_decoder().config.to_hf()
    del config["vocab_size"]
    with pytest.raises(BadInput, match="vocab_size"):
        DecoderConfig.from_hf(config)

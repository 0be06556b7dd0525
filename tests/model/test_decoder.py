"""The decoder against transformers on the same weights, and packed documents against each document alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.model.decoder import Decoder, DecoderConfig, document_mask

transformers = pytest.importorskip("transformers")

PEERS = {"qwen3": ("Qwen3Config", "Qwen3ForCausalLM"), "llama": ("LlamaConfig", "LlamaForCausalLM")}


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


@pytest.mark.parametrize("family", sorted(PEERS))
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_logits_equal_transformers(family: str, tied: bool, groups: int) -> None:
    ours = random_decoder(model_type=family, tie_word_embeddings=tied, num_key_value_heads=4 // groups)
    config, peer = (getattr(transformers, name) for name in PEERS[family])
    theirs = peer(config(**ours.config.to_hf())).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)  # the names are the same, none is missing
    tokens_BT = torch.randint(0, 96, (2, 33), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (ours.logits(ours(tokens_BT)) - theirs(tokens_BT).logits).abs().max()
    assert difference < 1e-4
    assert ours.config.num_parameters == sum(p.numel() for p in ours.parameters())
    assert DecoderConfig.from_hf(theirs.config.to_dict()) == ours.config


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


def test_nothing_looks_ahead() -> None:
    model = random_decoder()
    tokens = torch.randint(0, 96, (1, 20), generator=torch.Generator().manual_seed(3))
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 96
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt_neox"},
        {"attention_bias": True},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"use_sliding_window": True},
    ],
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        DecoderConfig.from_hf({**random_decoder().config.to_hf(), **change})

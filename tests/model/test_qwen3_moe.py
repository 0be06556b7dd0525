"""Mixtures of experts against transformers on the same weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mojiang.generate._runner import Runner
from mojiang.model._moe import FEW_TOKENS, SparseMLP, load_balancing_loss
from mojiang.model.decoder import Decoder, DecoderConfig

sys.path.insert(0, str(Path(__file__).parent))
import decoder_parity as parity

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "moe_intermediate_size": 16, "num_experts": 6, "num_experts_per_tok": 2,
    "max_position_embeddings": 32, "num_labels": 3, "pad_token_id": parity.PAD, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def their_config(**changes: Any) -> Any:
    return transformers.Qwen3MoeConfig(**{**SHAPE, **changes})


def random_moe(**changes: Any) -> Decoder:
    config = DecoderConfig.from_hf({**their_config().to_dict(), **changes})
    model = parity.randomized(Decoder(config))
    assert isinstance(model, Decoder)
    return model


@pytest.mark.parametrize("head", parity.HEADS)
def test_outputs_and_gradients_of_every_head_equal_transformers(tmp_path: Path, head: str) -> None:
    name = f"Qwen3MoeFor{head}"
    ours, theirs = parity.peers(tmp_path / "theirs", name, their_config(norm_topk_prob=head == "CausalLM"))
    parity.assert_equal_outputs(ours, theirs)
    parity.assert_equal_step(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, name)
    assert ours.config.num_parameters == ours.num_parameters()


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp_only_layers": [1], "tie_word_embeddings": True},
        {"decoder_sparse_step": 2, "attention_bias": True},
        {"num_experts": 3, "num_experts_per_tok": 3, "norm_topk_prob": True},
    ],
)
def test_settings_equal_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", "Qwen3MoeForCausalLM", their_config(**changes))
    sparse = [isinstance(block.mlp, SparseMLP) for block in ours.blocks()]
    assert sparse == ["Sparse" in type(layer.mlp).__name__ for layer in theirs.model.layers]
    parity.assert_equal_outputs(ours, theirs)
    parity.assert_equal_step(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, "Qwen3MoeForCausalLM")
    assert ours.config.num_parameters == ours.num_parameters()


@pytest.mark.parametrize("padded", [False, True])
def test_the_balancing_loss_equals_that_of_transformers(tmp_path: Path, padded: bool) -> None:
    ours, theirs = parity.peers(tmp_path, "Qwen3MoeForCausalLM", their_config(mlp_only_layers=[0]))
    assert ours.take_router_logits() == []
    ours.keep_router_logits()
    tokens = parity.TOKENS if padded else parity.TOKENS[:1]
    visible = parity.VISIBLE if padded else parity.VISIBLE[:1]
    ours(tokens, mask=parity.CAUSAL[: len(tokens)])
    logits = ours.take_router_logits()
    assert [x.shape for x in logits] == [(tokens.numel(), 6)] * 2
    loss = load_balancing_loss(logits, 2, visible.flatten())
    expected = theirs(tokens, attention_mask=visible.long(), output_router_logits=True).aux_loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for mine, other in zip(ours.model.layers[1:], theirs.model.layers[1:], strict=True):
        torch.testing.assert_close(mine.mlp.gate.weight.grad, other.mlp.gate.weight.grad, rtol=1e-4, atol=1e-7)
    assert ours.take_router_logits() == []
    ours.keep_router_logits(False)
    ours(tokens)
    assert ours.take_router_logits() == []


def test_the_balancing_loss_is_least_when_experts_are_used_alike() -> None:
    even = torch.eye(4).repeat(3, 1) * 5
    torch.testing.assert_close(load_balancing_loss([even], 1), torch.tensor(1.0))
    assert load_balancing_loss([even[:, [0, 0, 1, 1]] + torch.tensor([1.0, 0, 0, 0])], 1) > 1.2


def test_a_token_is_computed_alike_alone_and_among_others() -> None:
    """Bit for bit in a decoding step, whatever experts its neighbours go to."""
    layer = random_moe().model.layers[0].mlp
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        token = torch.randn(1, 1, 32, generator=generator)
        results = []
        for _ in range(5):
            batch = torch.cat([token, torch.randn(7, 1, 32, generator=generator)])
            results.append(layer(batch)[0])
        assert all(torch.equal(result, results[0]) for result in results)
        many = torch.cat([token, torch.randn(FEW_TOKENS, 1, 32, generator=generator)])
        torch.testing.assert_close(layer(many)[0], results[0], rtol=1e-5, atol=1e-6)


def test_the_engine_decodes_what_the_whole_sequence_gives() -> None:
    model = random_moe()
    tokens = torch.randint(0, 50, (20,), generator=torch.Generator().manual_seed(5)).tolist()
    expected = model.logits(model(torch.tensor([tokens])))[0]
    runner = Runner(model, slots=2, context=24)
    with torch.inference_mode():
        got = [runner.prefill(1, tokens[:12], 0)]
        got += [runner.decode({1: (token, position)})[1] for position, token in list(enumerate(tokens))[12:]]
    torch.testing.assert_close(torch.stack(got), expected[11:], rtol=1e-5, atol=1e-5)


def test_blocks_compile_around_the_experts() -> None:
    model = random_moe()
    model.keep_router_logits()
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = model(tokens)
        for block in model.blocks():
            block.compile(backend="eager", dynamic=False)
        torch.testing.assert_close(model(tokens), expected)
    assert len(model.take_router_logits()) == 3
    torch._dynamo.reset()

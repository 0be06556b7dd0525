"""GPT-2 against transformers on the same weights, and in the engine."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput
from mojiang.generate._runner import Runner
from mojiang.model._layers import set_dropout_keys
from mojiang.model.gpt2 import GPT2, GPT2Config
from mojiang.model.load import load_model

sys.path.insert(0, str(Path(__file__).parent))
import decoder_parity as parity

CLASSES = {head: f"GPT2For{head}" for head in parity.HEADS} | {"CausalLM": "GPT2LMHeadModel", "": "GPT2Model"}
SHAPE = {
    "vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "num_labels": 3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def their_config(**changes: Any) -> Any:
    return transformers.GPT2Config(**{**SHAPE, **changes})


@pytest.mark.parametrize("head", CLASSES)
def test_outputs_and_gradients_of_every_head_equal_transformers(tmp_path: Path, head: str) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", CLASSES[head], their_config())
    parity.assert_equal_outputs(ours, theirs)
    if head:
        parity.assert_equal_step(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, CLASSES[head])
    assert ours.config.num_parameters == ours.num_parameters()


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40, "layer_norm_epsilon": 1e-3},
        {"tie_word_embeddings": False, "activation_function": "relu"},
    ],
)
def test_settings_equal_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", "GPT2LMHeadModel", their_config(**changes))
    parity.assert_equal_outputs(ours, theirs)
    parity.assert_transformers_reads(tmp_path / "ours", ours, "GPT2LMHeadModel")
    assert ours.config.num_parameters == ours.num_parameters()


def test_files_as_openai_and_old_releases_wrote_them_are_read(tmp_path: Path) -> None:
    """Without the prefix, with the causal masks that were stored as buffers, with the tied head written out."""
    ours, _ = parity.peers(tmp_path, "GPT2LMHeadModel", their_config())
    state = {n.removeprefix("transformer."): t for n, t in load_file(tmp_path / "model.safetensors").items()}
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    state["lm_head.weight"] = state["wte.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
    assert again.head.weight is again.transformer.wte.weight


def test_the_engine_decodes_what_the_whole_sequence_gives() -> None:
    model = parity.randomized(GPT2(GPT2Config(50, 32, 32, 2, 4, scale_attn_by_inverse_layer_idx=True)))
    assert isinstance(model, GPT2)
    tokens = torch.randint(0, 50, (20,), generator=torch.Generator().manual_seed(5)).tolist()
    expected = model.logits(model(torch.tensor([tokens])))[0]
    runner = Runner(model, slots=2, context=24)
    with torch.inference_mode():
        got = [runner.prefill(1, tokens[:8], 0), runner.prefill(1, tokens[8:12], 8)]
        got += [runner.decode({1: (token, position)})[1] for position, token in list(enumerate(tokens))[12:]]
    torch.testing.assert_close(torch.stack(got), expected[[7, 11, *range(12, 20)]], rtol=1e-5, atol=1e-5)


def test_it_begins_as_transformers_begins() -> None:
    ours = GPT2(GPT2Config(500, 64, 64, 3, 4)).init_weights(0)
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(their_config(vocab_size=500, n_positions=64, n_embd=64, n_layer=3))
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert parameter.mean().item() == pytest.approx(other.mean().item(), abs=5e-3), name
        assert parameter.std().item() == pytest.approx(other.std().item(), rel=0.1), name
    projection = ours.transformer.h[1].mlp.c_proj.weight
    assert projection.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)


def test_dropout_is_of_the_row_and_not_of_the_batch() -> None:
    model = GPT2(GPT2Config(50, 16, 32, 2, 4, resid_pdrop=0.2, embd_pdrop=0.1)).init_weights(0).train()
    tokens, keys = torch.arange(24).reshape(3, 8), torch.tensor([11, 12, 13])
    set_dropout_keys(model, keys)
    together = model(tokens)
    set_dropout_keys(model, keys[1:2])
    torch.testing.assert_close(model(tokens[1:2]), together[1:2])
    set_dropout_keys(model, keys[1:2] + 1000)
    assert not torch.allclose(model(tokens[1:2]), together[1:2], atol=1e-3)


def test_all_blocks_compile_to_one_graph_with_dropout() -> None:
    from torch._dynamo.testing import CompileCounter

    model, counter = GPT2(GPT2Config(50, 16, 32, 3, 4)).init_weights(0).train(), CompileCounter()
    set_dropout_keys(model, torch.tensor([1, 2]))
    tokens, spans = torch.arange(24).reshape(2, 12), torch.tensor([[0, 0, 12], [1, 0, 5], [1, 5, 12]])
    with torch.no_grad():
        expected = model(tokens, mask=spans)
        for block in model.blocks():
            block.compile(backend=counter, fullgraph=True, dynamic=False)
        torch.testing.assert_close(model(tokens, mask=spans), expected)
        set_dropout_keys(model, torch.tensor([3, 4]))
        assert not torch.allclose(model(tokens, mask=spans), expected)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "change", [{"add_cross_attention": True}, {"n_head": 5}, {"activation_function": "xielu"}, {"n_embd": 33}]
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        GPT2Config.from_hf({**their_config().to_dict(), **change})

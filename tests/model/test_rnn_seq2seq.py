"""The recurrent encoder-decoder against its equations step by step, each pair alone, and its own cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.generate._seq2seq import translate_tokens
from mojiang.model._seq2seq import DecoderCache
from mojiang.model.load import load_model, save_model
from mojiang.model.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig

SOURCES, TARGETS = (9, 4, 7), (5, 6, 2)
SOURCE_SPANS = torch.tensor([[row, 0, length] for row, length in enumerate(SOURCES)])
TARGET_SPANS = torch.tensor([[row, 0, length] for row, length in enumerate(TARGETS)])
MASK = (torch.arange(9) < torch.tensor(SOURCES)[:, None])[:, None, None]
KINDS = [
    {"attention": "bahdanau", "cell": "lstm", "num_layers": 2},
    {"attention": "bahdanau", "cell": "gru"},
    {"attention": "luong", "cell": "lstm"},
    {"attention": "luong", "cell": "gru", "num_layers": 2},
]


def made(**changes: Any) -> RNNSeq2Seq:
    model = RNNSeq2Seq(RNNSeq2SeqConfig(20, 6, 5, eos_token_id=2, **changes)).init_weights(0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from linear
    return model


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 20, (3, 9), generator=generator), torch.randint(3, 20, (3, 6), generator=generator)


def by_definition(model: RNNSeq2Seq, source: Tensor, inputs: list[int]) -> Tensor:
    """Hidden states of one target, from torch's own cell and the papers' equations."""
    memory = model.encode(source[None])[0]
    config, (weight, bias) = model.config, (model.out.weight, model.out.bias)
    cell_type = nn.LSTMCell if config.cell == "lstm" else nn.GRUCell
    cells = []
    for layer in range(config.num_layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        values = {name: getattr(model.decoder, f"{name}_l{layer}").detach() for name in names}
        cells.append(cell_type(values["weight_ih"].shape[1], 5))
        cells[-1].load_state_dict(values)
    start = torch.tanh(model.start.weight @ memory.mean(0) + model.start.bias).view(config.num_layers, 5)
    states: list[Any] = [(h, torch.zeros(5)) if config.cell == "lstm" else h for h in start]

    def top() -> Tensor:
        return states[-1][0] if config.cell == "lstm" else states[-1]

    def read() -> Tensor:
        a = model.attention
        if config.attention == "luong":
            energy = [top() @ (a.key.weight @ m) for m in memory]
        else:
            moved = a.query.weight @ top() + a.query.bias
            energy = [(a.energy.weight @ torch.tanh(moved + a.key.weight @ m))[0] for m in memory]
        return torch.stack(energy).softmax(0) @ memory

    hidden = []
    for token in inputs:
        word = model.embedding.weight[token]
        context = read()
        x = torch.cat([word, context]) if config.attention == "bahdanau" else word
        for layer, cell in enumerate(cells):
            states[layer] = cell(x, states[layer])
            x = states[layer][0] if config.cell == "lstm" else states[layer]
        seen = [top(), context, word] if config.attention == "bahdanau" else [top(), read()]
        hidden.append(torch.tanh(weight @ torch.cat(seen) + bias))
    return torch.stack(hidden)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [MASK, SOURCE_SPANS])
def test_a_padded_batch_gives_what_the_equations_give_each_pair(kind: dict[str, Any], mask: Tensor) -> None:
    model, (source, inputs) = made(**kind), pairs()
    found = model(source, inputs, mask=mask, target_mask=TARGET_SPANS)
    for row, length in enumerate(TARGETS):
        expected = by_definition(model, source[row, : SOURCES[row]], inputs[row, :length].tolist())
        torch.testing.assert_close(found[row, :length], expected, rtol=1e-4, atol=1e-5)
        assert found[row, length:].eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_pairs_do_not_see_each_other(kind: dict[str, Any]) -> None:
    model, (source, inputs) = made(**kind), pairs()
    apart = model(source, inputs, mask=SOURCE_SPANS, target_mask=TARGET_SPANS)
    packed_source = torch.cat([source[n, :length] for n, length in enumerate(SOURCES)])[None]
    packed_inputs = torch.cat([inputs[n, :length] for n, length in enumerate(TARGETS)])[None]
    mask = torch.tensor([[0, 0, 9], [0, 9, 13], [0, 13, 20]])
    target_mask = torch.tensor([[0, 0, 5], [0, 5, 11], [0, 11, 13]])
    together = model(packed_source, packed_inputs, mask=mask, target_mask=target_mask)
    expected = torch.cat([apart[n, :length] for n, length in enumerate(TARGETS)])
    torch.testing.assert_close(together[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_changes_nothing(kind: dict[str, Any]) -> None:
    """Step by step, with two beams per source, exchanged on the way, and with a source that has left the batch."""
    model, (source, inputs) = made(**kind), pairs()
    memory = model.encode(source, MASK)
    whole = model.decode(inputs, memory, MASK)
    beams, cache = inputs.repeat_interleave(2, 0), DecoderCache(6)
    beams[1::2] = beams[1::2].flip(1)
    whole_back = model.decode(inputs.flip(1), memory, MASK)
    for t in range(3):
        hidden = model.decode(beams[:, t : t + 1], memory, MASK, cache=cache)
        torch.testing.assert_close(hidden[::2, 0], whole[:, t])
        torch.testing.assert_close(hidden[1::2, 0], whole_back[:, t])
    rows, kept = torch.tensor([3, 2, 5, 4]), torch.tensor([1, 2])
    cache.select(rows, kept)
    hidden = model.decode(beams[rows, 3:4], memory[kept], MASK[kept], cache=cache)
    torch.testing.assert_close(hidden[1::2, 0], whole[kept, 3])
    torch.testing.assert_close(hidden[::2, 0], whole_back[kept, 3])
    assert cache.length == 4


@pytest.mark.parametrize("attention", ["bahdanau", "luong"])
def test_it_learns_to_reverse(attention: str) -> None:
    generator = torch.Generator().manual_seed(3)
    source = torch.randint(3, 8, (64, 4), generator=generator)
    targets = torch.cat([source.flip(1), torch.full((64, 1), 2)], 1)
    config = RNNSeq2SeqConfig(8, 16, 32, attention=attention, eos_token_id=2, cell="gru")
    model = RNNSeq2Seq(config).init_weights(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        logits = model.logits(model(source, model.shift_right(targets)))
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
    sources = source[:8].tolist()
    for beams in (1, 3):
        written = translate_tokens(model.eval(), sources, 6, beams)
        assert sum(row[::-1] == text for row, text in zip(written, sources, strict=True)) >= 7


def test_gradients_reach_every_weight() -> None:
    for kind in KINDS:
        model, (source, inputs) = made(**kind), pairs()
        model.logits(model(source, inputs)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


def test_half_precision_is_near() -> None:
    for kind in KINDS:
        model = RNNSeq2Seq(RNNSeq2SeqConfig(20, 6, 5, **kind)).init_weights(0).eval()
        source, inputs = pairs()
        exact = model(source, inputs)
        model.compute_dtype = torch.bfloat16
        hidden = model(source, inputs)
        assert hidden.dtype == torch.bfloat16
        assert (hidden - exact).norm() < 0.03 * exact.norm()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model, (source, inputs) = made(num_layers=2), pairs()
    save_model(model, None, tmp_path)
    again = load_model(tmp_path)
    assert again.config.to_hf() == model.config.to_hf()
    assert torch.equal(again.logits(again(source, inputs)), model.logits(model(source, inputs)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="attention"):
        RNNSeq2Seq.from_hf({"vocab_size": 9, "attention": "flash"})
    with pytest.raises(BadInput, match="cell"):
        RNNSeq2Seq.from_hf({"vocab_size": 9, "cell": "elman"})
    model, (source, inputs) = made(), pairs()
    with pytest.raises(BadInput, match="3 sources and 2 targets"):
        model(source, inputs, mask=SOURCE_SPANS, target_mask=TARGET_SPANS[:2])

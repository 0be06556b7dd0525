"""Recurrent classifiers against torch's own layers on each text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import set_dropout_keys
from mojiang.model._sequences import CELLS
from mojiang.model.load import load_model, save_model
from mojiang.model.rnn import RNN, RNNConfig

LENGTHS = (7, 1, 4)
MASK = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
SPANS = torch.tensor([[row, 0, length] for row, length in enumerate(LENGTHS)])
SHAPES = [
    {"cell": "lstm", "bidirectional": True, "pooling": "max", "num_layers": 2},
    {"cell": "gru", "bidirectional": True, "pooling": "mean", "num_layers": 2},
    {"cell": "lstm", "bidirectional": True, "pooling": "last", "num_layers": 1},
    {"cell": "gru", "bidirectional": False, "pooling": "last", "num_layers": 2},
]


def made(**changes: Any) -> RNN:
    return RNN(RNNConfig(30, 6, 5, num_labels=3, **changes)).init_weights(0).eval()


def tokens() -> Tensor:
    return torch.randint(0, 30, (3, 9), generator=torch.Generator().manual_seed(1))


def torchs(model: RNN) -> nn.LSTM | nn.GRU:
    """The same recurrence as one layer of torch."""
    config = model.config
    theirs = CELLS[config.cell](6, 5, config.num_layers, bidirectional=config.bidirectional, batch_first=True)
    for name, parameter in theirs.named_parameters():
        kind, layer = name.removesuffix("_reverse").rsplit("_l", 1)
        direction = model.recurrence.back if name.endswith("_reverse") else model.recurrence.ahead
        parameter.data.copy_(direction[int(layer)].get_parameter(f"{kind}_l0").data)
    return theirs


def pooled(model: RNN, states_TD: Tensor, last_KD: Tensor) -> Tensor:
    if model.config.pooling == "last":
        return last_KD[-2:].flatten() if model.config.bidirectional else last_KD[-1]
    return states_TD.amax(0) if model.config.pooling == "max" else states_TD.mean(0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", [MASK, SPANS])
def test_a_padded_batch_gives_what_torch_gives_each_text_alone(shape: dict[str, Any], mask: Tensor) -> None:
    model, x = made(**shape), tokens()
    theirs = torchs(model)
    hidden = model(x, mask=mask)
    scores = model.scores(hidden, mask)
    for row, length in enumerate(LENGTHS):
        states, last = theirs(model.embedding(x[row : row + 1, :length]))
        torch.testing.assert_close(hidden[row, :length], states[0])
        assert hidden[row, length:].eq(0).all()
        last_KD = (last[0] if model.config.cell == "lstm" else last)[:, 0]
        torch.testing.assert_close(scores[row], model.classifier(pooled(model, states[0], last_KD)))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_do_not_depend_on_the_batch(shape: dict[str, Any]) -> None:
    model, x = made(**shape), tokens()
    model.scores(model(x, mask=SPANS), SPANS).square().sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, length in enumerate(LENGTHS):
        model.scores(model(x[row : row + 1, :length])).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_texts_do_not_see_each_other(shape: dict[str, Any]) -> None:
    model, x = made(**shape), tokens()
    row = torch.cat([x[n, :length] for n, length in enumerate(LENGTHS)])[None]
    packed = torch.tensor([[0, 0, 7], [0, 7, 8], [0, 8, 8], [0, 8, 12]])  # an empty one is no text
    apart = model.scores(model(x, mask=SPANS), SPANS)
    torch.testing.assert_close(model.scores(model(row, mask=packed), packed), apart)


def test_padding_on_the_left_is_padding_too() -> None:
    model, x = made(), tokens()
    left = torch.zeros(1, 9, dtype=torch.long)
    left[0, 5:] = x[2, :4]
    mask = torch.arange(9)[None] >= 5
    torch.testing.assert_close(model.scores(model(left, mask=mask), mask), model.scores(model(x[2:, :4])))


def test_dropout_of_a_text_does_not_depend_on_its_micro_batch() -> None:
    model, x, keys = made(dropout=0.5).train(), tokens(), torch.tensor([5, 6, 7])
    set_dropout_keys(model, keys)
    together = model.scores(model(x, mask=SPANS), SPANS)
    set_dropout_keys(model, keys[2:])
    alone = model.scores(model(x[2:, :4]))
    torch.testing.assert_close(together[2:], alone)
    assert not torch.allclose(alone, model.eval().scores(model(x[2:, :4])))


def test_forget_gates_start_open_and_seeds_decide() -> None:
    model = made()
    bias = model.recurrence.ahead[0].bias_ih_l0 + model.recurrence.ahead[0].bias_hh_l0
    assert bias.view(4, 5).tolist() == [
        [0.0] * 5,
        [1.0] * 5,
        [0.0] * 5,
        [0.0] * 5,
    ]  # torch: input, forget, cell, output
    assert made(cell="gru").recurrence.ahead[0].bias_ih_l0.eq(0).all()
    assert torch.equal(made().embedding.weight, model.embedding.weight)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model, x = made(num_layers=2), tokens()
    save_model(model, None, tmp_path)
    again = load_model(tmp_path)
    assert again.config.to_hf() == model.config.to_hf()
    assert torch.equal(again.scores(again(x)), model.scores(model(x)))
    new = load_model(tmp_path, num_labels=5)
    assert torch.equal(new(x), model(x))
    assert new.scores(new(x)).shape == (3, 5)


@pytest.mark.parametrize("change", [{"cell": "elman"}, {"pooling": "sum"}])
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        RNN.from_hf({"vocab_size": 9, **change})

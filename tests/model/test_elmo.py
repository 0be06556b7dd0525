"""ELMo against PyTorch's own bidirectional LSTM, its words against windows cut by hand, and against peeking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._projected_lstm import ProjectedLSTM
from mojiang.model._spelling import PAD, SpelledWords, spell
from mojiang.model.elmo import ELMo, ELMoConfig, ScalarMix, read
from mojiang.model.load import load_model, save_model

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # PyTorch's, on a CPU
SENTENCES = [["the", "bank", "of", "the", "river"], ["银行", "在", "河", "边"], ["unbelievably"], ["a", "b", "c"]]
SHAPE: dict[str, Any] = {"cell_size": 12, "channels": 4, "filters": ((1, 3), (2, 4), (5, 5)), "num_highways": 2}


def made(**changes: Any) -> ELMo:
    model = ELMo(ELMoConfig(20, 6, **{**SHAPE, "num_layers": 3, **changes})).init_weights(0)
    with torch.no_grad():  # biases that begin as zero would hide where they are added
        for n, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)) * 0.3)
    return model.eval()


def test_the_kernel_for_processors_has_the_states_and_gradients_of_pytorchs() -> None:
    torch.manual_seed(0)
    ours, x_BTI = ProjectedLSTM(5, 7, 3).double(), torch.randn(4, 6, 5, dtype=torch.double)
    theirs = nn.LSTM(5, 7, proj_size=3, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    weights_BTP = torch.randn(4, 6, 3, dtype=torch.double)
    found = []
    for lstm in (ours, theirs):
        for length in (6, 1):
            lstm.zero_grad()
            free = x_BTI[:, :length].clone().requires_grad_()
            states = lstm(free)
            states = states if isinstance(states, Tensor) else states[0]
            (states * weights_BTP[:, :length]).sum().backward()
            found.append([states, free.grad, *(parameter.grad for parameter in lstm.parameters())])
    for mine, right in ((found[0], found[2]), (found[1], found[3])):
        for one, other in zip(mine, right, strict=True):
            torch.testing.assert_close(one, other)


@torch.no_grad()
def test_layers_are_those_of_pytorchs_lstm_on_each_sentence_alone() -> None:
    model = made()
    words_BT, spellings_UL, mask_BT = read(SENTENCES)
    layers = model(words_BT, spellings_UL, mask_BT)
    vectors_UP = model.words(spellings_UL)
    for row, sentence in enumerate(SENTENCES):
        x_1TP = vectors_UP[words_BT[row, : len(sentence) + 2]][None]
        both = nn.LSTM(6, 12, proj_size=6, batch_first=True, bidirectional=True)
        there = {f"{name}": value for name, value in model.ahead[0].state_dict().items()}
        there |= {f"{name}_reverse": value for name, value in model.back[0].state_dict().items()}
        both.load_state_dict(there)
        expected = [torch.cat([x_1TP, x_1TP], -1), both(x_1TP)[0]]
        for ahead, back in zip(list(model.ahead)[1:], list(model.back)[1:], strict=True):
            one, other = expected[-1].chunk(2, -1)
            states = torch.cat([ahead(one), back(other.flip(1)).flip(1)], -1)
            expected.append(states + expected[-1])
        for found, right in zip(layers, expected, strict=True):
            torch.testing.assert_close(found[row, : len(sentence) + 2], right[0])


@torch.no_grad()
def test_a_words_vector_is_made_of_its_windows() -> None:
    words = ["a", "bank", "银行", "unbelievably"]
    spelled = SpelledWords(4, ((1, 3), (2, 4), (5, 5)), 1, 6)
    together = spelled(torch.from_numpy(spell(words)).long())
    for number, word in enumerate(words):
        codes = [257, *(byte + 1 for byte in word.encode()), 258]
        codes += [PAD] * (5 - len(codes))  # the widest filter
        x_LC = spelled.embedding.weight[codes]
        largest = []
        for convolution in spelled.convolutions:
            width = convolution.kernel_size[0]
            windows = [x_LC[at : at + width].T.flatten() for at in range(len(codes) - width + 1)]
            scores = torch.stack(windows) @ convolution.weight.flatten(1).T + convolution.bias
            largest.append(scores.max(0).values)
        x_F = torch.cat(largest).relu()
        highway = spelled.highways[0]
        share = torch.sigmoid(x_F @ highway.carry.weight.T + highway.carry.bias)
        x_F = share * x_F + (1 - share) * (x_F @ highway.transform.weight.T + highway.transform.bias).relu()
        expected = x_F @ spelled.projection.weight.T + spelled.projection.bias
        torch.testing.assert_close(together[number], expected)


@torch.no_grad()
def test_no_direction_sees_the_word_that_it_predicts() -> None:
    """Another word at place t: predictions of words up to t from before it stay, and so do those from after it."""
    model = made()
    words_BT, spellings_UL, mask_BT = read([["one", "two", "three", "four", "five", "six"]])
    before = [model.head(part) for part in model(words_BT, spellings_UL, mask_BT)[-1].chunk(2, -1)]
    for t in range(1, 7):
        changed = words_BT.clone()
        changed[0, t] = words_BT[0, 1 + t % 6]
        ahead, back = (model.head(part) for part in model(changed, spellings_UL, mask_BT)[-1].chunk(2, -1))
        assert torch.equal(ahead[0, :t], before[0][0, :t])  # place n predicts n + 1
        assert not torch.isclose(ahead[0, t:], before[0][0, t:]).all(-1).any()
        assert torch.equal(back[0, t + 1 :], before[1][0, t + 1 :])  # place n predicts n - 1
        assert not torch.isclose(back[0, : t + 1], before[1][0, : t + 1]).all(-1).any()


def test_vectors_are_those_of_the_layers_in_the_order_of_the_sentences() -> None:
    model = made().train()
    vectors = model.vectors([*SENTENCES, []], at_once=2)
    assert model.training
    assert [tuple(found.shape) for found in vectors] == [(5, 4, 12), (4, 4, 12), (1, 4, 12), (3, 4, 12), (0, 4, 12)]
    alone = made().vectors(SENTENCES[1:2])[0]
    torch.testing.assert_close(vectors[1], alone)
    the, again = vectors[0][0], vectors[0][3]
    assert torch.equal(the[0], again[0])  # the words' own vectors
    assert not torch.isclose(the[1:], again[1:]).all(-1).any()  # and those in their sentence


def test_a_mix_is_what_equation_1_says_and_learns() -> None:
    mix, layers = ScalarMix(3), torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
        mix.factor.fill_(1.7)
    share = torch.tensor([0.3, -1.0, 2.0]).softmax(0)
    expected = 1.7 * sum(share[j] * layers[:, j] for j in range(3))
    torch.testing.assert_close(mix(layers), expected)
    (mix(layers) - layers[:, 1]).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in mix.parameters())


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model = made()
    save_model(model, None, tmp_path)
    again: Any = load_model(tmp_path)
    assert again.config == model.config
    inputs = read(SENTENCES)
    found, right = again(*inputs), model(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert torch.equal(again.logits(found[-1].chunk(2, -1)[0]), model.logits(right[-1].chunk(2, -1)[0]))
    bare: Any = load_model(tmp_path, head="embedding")
    assert not bare.head_names()
    assert torch.equal(bare.vectors(SENTENCES)[0], model.vectors(SENTENCES)[0])
    save_model(bare, None, tmp_path / "bare")
    twice: Any = load_model(tmp_path / "bare")
    assert torch.equal(twice.vectors(SENTENCES)[0], model.vectors(SENTENCES)[0])
    with pytest.raises(TypeError, match="no vocabulary projection"):
        _ = twice.head


def test_dropout_is_of_a_row_and_not_of_its_batch() -> None:
    from mojiang.model._layers import set_dropout_keys

    model = made(dropout=0.5).train()

    def last(rows: list[int]) -> Tensor:
        set_dropout_keys(model, torch.tensor(rows) + 77)
        words_BT, spellings_UL, mask_BT = read([SENTENCES[row] for row in rows])
        layers: list[Tensor] = model(words_BT, spellings_UL, mask_BT)
        return layers[-1]

    with torch.no_grad():
        torch.testing.assert_close(last([0, 1, 2])[1, :6], last([1])[0])
        assert not torch.isclose(last([1])[0], model.eval()(*read(SENTENCES[1:2]))[-1][0]).all()


@pytest.mark.parametrize("change", [{"filters": []}, {"filters": [[0, 4]]}, {"num_layers": 0}, {"cell_size": 6}])
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        ELMo.from_hf({"vocab_size": 9, "hidden_size": 6, **change})

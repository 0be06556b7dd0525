"""TextCNN against its definition, window by window, and a text in a batch against the text alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model._layers import set_dropout_keys
from mojiang.model.load import load_model, save_model
from mojiang.model.textcnn import TextCNN, TextCNNConfig

LENGTHS = (7, 1, 4)
MASK = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
SPANS = torch.tensor([[row, 0, length] for row, length in enumerate(LENGTHS)])


def made() -> TextCNN:
    return TextCNN(TextCNNConfig(30, 6, (1, 2, 5), 4, num_labels=3)).init_weights(0).eval()


def tokens() -> Tensor:
    return torch.randint(0, 30, (3, 9), generator=torch.Generator().manual_seed(1))


def by_definition(model: TextCNN, text: list[int]) -> Tensor:
    """Kim 2014, equations 2 to 4: h·w + b for every window, ReLU, the maximum, the softmax's input."""
    vectors = [model.embedding.weight[token] for token in text]
    largest = []
    for convolution in model.convolutions:
        width = convolution.kernel_size[0]
        values = []
        for centre in range(len(text)):
            value = convolution.bias.clone()
            for place in range(width):
                at = centre - (width - 1) // 2 + place
                if 0 <= at < len(text):
                    value += convolution.weight[:, :, place] @ vectors[at]
            values.append(value.relu())
        largest.append(torch.stack(values).amax(0))
    return model.classifier.weight @ torch.cat(largest) + model.classifier.bias


@pytest.mark.parametrize("mask", [MASK, MASK[:, None, None], SPANS])
def test_scores_are_those_of_the_definition_whatever_the_padding(mask: Tensor) -> None:
    model, x = made(), tokens()
    found = model.scores(model(x, mask=mask), mask)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row], by_definition(model, x[row, :length].tolist()))


def test_packed_texts_do_not_see_each_other() -> None:
    model, x = made(), tokens()
    apart = model.scores(model(x, mask=SPANS), SPANS)
    row = torch.cat([x[n, :length] for n, length in enumerate(LENGTHS)])[None]
    packed = torch.tensor([[0, 0, 7], [0, 3, 3], [0, 7, 8], [0, 8, 12]])  # an empty one is no text
    torch.testing.assert_close(model.scores(model(row, mask=packed), packed), apart)


def test_full_rows_need_no_mask() -> None:
    model, x = made(), tokens()
    full = torch.ones_like(x, dtype=torch.bool)
    assert torch.equal(model.scores(model(x)), model.scores(model(x, mask=full), full))


def test_dropout_of_a_text_does_not_depend_on_its_micro_batch() -> None:
    model, x, keys = made().train(), tokens(), torch.tensor([5, 6, 7])
    set_dropout_keys(model, keys)
    together = model.scores(model(x, mask=SPANS), SPANS)
    set_dropout_keys(model, keys[1:2])
    alone = model.scores(model(x[1:2, :1]))
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.allclose(alone, model.eval().scores(model(x[1:2, :1])))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model, x = made(), tokens()
    save_model(model, None, tmp_path)
    again = load_model(tmp_path)
    assert again.config.to_hf() == model.config.to_hf()
    assert torch.equal(again.scores(again(x)), model.scores(model(x)))
    new = load_model(tmp_path, num_labels=5)
    assert torch.equal(new(x), model(x))
    assert new.scores(new(x)).shape == (3, 5)


def test_half_precision_is_near_and_scores_are_fp32() -> None:
    model, x = made(), tokens()
    exact = model.scores(model(x))
    model.compute_dtype = torch.bfloat16
    hidden = model(x)
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(model.scores(hidden), exact, rtol=0.03, atol=0.01)


@pytest.mark.parametrize(
    "mask",
    [torch.ones(3, 8, dtype=torch.bool), torch.tensor([[True, False, True]]).repeat(3, 3), torch.ones(3, 9).long()],
)
def test_masks_that_give_no_texts_are_refused(mask: Tensor) -> None:
    with pytest.raises(BadInput):
        made()(tokens(), mask=mask)


def test_windows_without_a_token_are_refused() -> None:
    with pytest.raises(BadInput, match="filter_sizes"):
        TextCNN.from_hf({"vocab_size": 9, "filter_sizes": [0, 2]})

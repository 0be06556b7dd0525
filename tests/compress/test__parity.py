"""Parity measures on pairs of models whose difference is known."""

import copy
import math
from typing import Any

import pytest
import torch

from mojiang.compress._parity import common_prefix_share, compare_likelihoods, compare_logits, decode
from mojiang.model.decoder import Decoder
from mojiang.model.load import load_model
from mojiang.tokenizer.load import load_tokenizer


@pytest.fixture(scope="module")
def model(world: Any) -> Decoder:
    return load_model(world.model.path)


def test_a_model_is_equal_to_itself(model: Decoder) -> None:
    same = compare_logits(model, model, [list(range(20)), list(range(7))])
    assert (same.positions, same.max_difference, same.top1_agreement) == (27, 0.0, 1.0)
    assert same.mean_kl == pytest.approx(0.0, abs=1e-6)
    seen: list[tuple[int, int]] = []
    scores = compare_likelihoods(model, model, [[5, 6, 7], [8]], [3, 1], (0, 0), lambda d, t: seen.append((d, t)))
    assert scores.before == scores.after
    assert scores.increase == (0.0, 0.0, 0.0)
    assert seen[-1][0] == seen[-1][1]


def test_kl_and_difference_of_a_shifted_head(model: Decoder) -> None:
    """Without an opinion (zero hidden state) one distribution is uniform; the other is known in closed form."""

    class Constant(Decoder):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(*hidden.shape[:-1], self.config.vocab_size)
            scores[..., 3] = self.boost
            return scores

    uniform, peaked = (copy.deepcopy(model) for _ in range(2))
    for constant, boost in ((uniform, 0.0), (peaked, 2.0)):
        constant.__class__ = Constant
        constant.boost = boost
    found = compare_logits(uniform, peaked, [[1, 2, 3, 4]])
    V = model.config.vocab_size
    expected = math.log((V - 1 + math.exp(2.0)) / V) - 2.0 / V
    assert found.mean_kl == pytest.approx(expected, rel=1e-4)
    assert found.max_difference == 2.0
    assert found.top1_agreement == 0.0


def test_common_prefix_by_hand() -> None:
    assert common_prefix_share([[1, 2], [1, 2]], [[1, 2], [2, 1]]) == 0.5
    assert common_prefix_share([[1, 2, 3]], [[1, 2]]) == pytest.approx(2 / 3)
    assert common_prefix_share([], []) == 1.0


def test_decode_writes_the_tokens_asked_for(world: Any, model: Decoder) -> None:
    tokenizer = load_tokenizer(world.model.path)
    decoded = decode(model, tokenizer, [[0, 5], [0, 9, 9]], max_tokens=7)
    assert [len(tokens) for tokens in decoded.tokens] == [7, 7]
    assert decoded.tokens_per_second > 0

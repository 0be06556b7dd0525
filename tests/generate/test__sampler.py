from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.errors import BadInput
from mojiang.generate._sampler import Sampling, logprob, sample, uniform

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 0.5])


def frequencies(sampling_seedless: dict[str, float], draws: int = 4000) -> torch.Tensor:
    counts = torch.zeros(5)
    for position in range(draws):
        counts[sample(LOGITS, Sampling(seed=7, **sampling_seedless), position)] += 1  # type: ignore[arg-type]
    return counts / draws


def test_greedy() -> None:
    assert sample(LOGITS, Sampling(), 0) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_follows_the_softmax(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, -1)
    deviation = 4 * torch.sqrt(expected * (1 - expected) / 4000) + 1e-3
    assert ((frequencies({"temperature": temperature}) - expected).abs() < deviation).all()


def test_top_k_and_top_p_cut_and_renormalise() -> None:
    got = frequencies({"temperature": 1.0, "top_k": 2})
    assert got[[0, 3, 4]].sum() == 0
    assert got[1].item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    # Probabilities are .64 .24 .09 .05 .01: two tokens are needed to reach .8.
    assert frequencies({"temperature": 1.0, "top_p": 0.8}).nonzero().flatten().tolist() == [1, 2]
    assert frequencies({"temperature": 1.0, "top_p": 0.01}, 50)[1] == 1


@given(st.integers(-(2**63), 2**63), st.integers(0, 2**31))
def test_uniform_is_a_function_into_the_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)


def test_uniform_is_uniform_over_positions_and_seeds() -> None:
    for numbers in ([uniform(3, i) for i in range(20000)], [uniform(i, 3) for i in range(20000)]):
        counts = torch.histc(torch.tensor(numbers), 20, 0, 1)
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_neighbouring_seeds_and_positions_are_independent() -> None:
    x = torch.tensor([[uniform(s, p) for p in range(200)] for s in range(200)])
    for a, b in ((x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[1:, 1:], x[:-1, :-1]), (x[1:, :-1], x[:-1, 1:])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.02


def test_logprob() -> None:
    entry = logprob(LOGITS, 2, 3)
    assert entry.logprob == pytest.approx(math.log(torch.softmax(LOGITS, -1)[2].item()), abs=1e-6)
    assert [token for token, _ in entry.top] == [1, 2, 0]


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"temperature": math.nan}])
def test_bad_values(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Sampling(**bad)  # type: ignore[arg-type]

"""Metrics against closed forms and published values."""

import math

import numpy as np
import pytest

from mojiang.core.errors import BadInput
from mojiang.evaluate import metrics


def test_a_uniform_byte_model_costs_eight_bits_per_byte() -> None:
    assert metrics.bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0, rel=1e-12)


def test_no_bytes_is_refused() -> None:
    with pytest.raises(BadInput, match="0 bytes"):
        metrics.bits_per_byte(1.0, 0)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # statsmodels.stats.proportion.proportion_confint(k, n, alpha=0.05, method="wilson")
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (3, 10, 0.1077913, 0.6032219),
        (50, 100, 0.4038315, 0.5961685),
        (81, 263, 0.2552885, 0.3662096),
    ],
)
def test_wilson_equals_statsmodels(successes: int, trials: int, low: float, high: float) -> None:
    interval = metrics.wilson_interval(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_wilson_ends_solve_the_score_equation() -> None:
    interval = metrics.wilson_interval(7, 40, confidence=0.99)
    for end in (interval.low, interval.high):
        z = (7 / 40 - end) / math.sqrt(end * (1 - end) / 40)
        assert abs(z) == pytest.approx(2.5758293, abs=1e-6)


def test_impossible_shares_are_refused() -> None:
    for successes, trials in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(BadInput):
            metrics.wilson_interval(successes, trials)


def test_bootstrap_agrees_with_the_delta_method_on_a_large_sample() -> None:
    rng = np.random.default_rng(1)
    size = rng.lognormal(8, 1, 3000)
    bits = size * rng.normal(2.0, 0.3, 3000)
    interval = metrics.ratio_interval(list(bits), list(size), resamples=3000)
    ratio = bits.sum() / size.sum()
    error = math.sqrt(np.sum((bits - ratio * size) ** 2)) / size.sum()
    assert interval.value == pytest.approx(ratio)
    assert interval.low == pytest.approx(ratio - 1.959964 * error, abs=0.12 * error)
    assert interval.high == pytest.approx(ratio + 1.959964 * error, abs=0.12 * error)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(300):
        size = rng.lognormal(3, 0.5, 60)
        interval = metrics.ratio_interval(list(size * rng.normal(1.5, 0.4, 60)), list(size), resamples=400, seed=trial)
        covered += interval.low <= 1.5 <= interval.high
    assert 0.88 <= covered / 300 <= 0.99


def test_bootstrap_is_repeatable_and_one_document_claims_nothing() -> None:
    first, second = (metrics.ratio_interval([1.0, 3.0, 2.0], [1.0, 1.0, 2.0], seed=4) for _ in range(2))
    assert first == second
    assert metrics.ratio_interval([2.0], [4.0]) == (0.5, -math.inf, math.inf)
    with pytest.raises(BadInput):
        metrics.ratio_interval([1.0, 2.0], [1.0])


def test_repetition_counts_by_hand() -> None:
    assert metrics.distinct_ngrams([1, 2, 1, 2, 1], 2) == 2 / 4
    assert metrics.repeated_share("aaaaaaaa", 4) == pytest.approx(4 / 5)
    assert metrics.repeated_share("ab", 4) == 0.0
    assert metrics.distinct_ngrams([], 1) == 0.0

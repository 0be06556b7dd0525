"""Figures of merit and how sure we are of them.

Every score that leaves this package carries an interval: documents, not tokens, are the independent draws, so the
bootstrap resamples documents, and shares of yes/no outcomes use Wilson's interval, which stays inside [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from mojiang.core.errors import BadInput


class Interval(NamedTuple):
    """A point estimate with the ends of its confidence interval, all in the unit of the estimate."""

    value: float
    low: float
    high: float


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Cross-entropy in bits per byte of text: comparable across tokenizers, and with a compressor's output.

    `nats` is the summed negative log-likelihood of a text of `num_bytes` UTF-8 bytes.

    >>> bits_per_byte(nats=8 * math.log(2) * 100, num_bytes=100)
    8.0
    """
    if num_bytes <= 0:
        raise BadInput(f"bits per byte of {num_bytes} bytes is undefined", hint="give at least one non-empty document")
    return nats / math.log(2) / num_bytes


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a ratio of sums, such as total bits over total bytes, resampling documents.

    Percentile bootstrap (Efron & Tibshirani 1993, ch. 13). Numerator and denominator of a document are drawn
    together, so a few very long documents widen the interval as they should. With one document there is no
    spread to measure: the interval is then infinitely wide, not zero.

    >>> ratio_interval([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Interval(value=2.0, low=2.0, high=2.0)
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or top.size == 0:
        raise BadInput(f"a ratio needs pairs of numbers; got shapes {top.shape} and {bottom.shape}")
    if not (bottom > 0).all():
        raise BadInput(f"a ratio needs positive denominators; the smallest is {bottom.min():g}")
    value = float(top.sum() / bottom.sum())
    if top.size == 1:
        return Interval(value, -math.inf, math.inf)
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    # A block of resamples at a time: (block, documents) indices stay near 1M entries whatever the corpus size.
    block = max(1, min(resamples, 1_000_000 // top.size))
    for start in range(0, resamples, block):
        drawn = rng.integers(top.size, size=(min(block, resamples - start), top.size))
        ratios[start : start + block] = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Interval of a share of successes (Wilson 1927): honest for small samples and for shares near 0 or 1.

    >>> share = wilson_interval(10, 10)
    >>> share.value, round(share.low, 3), share.high
    (1.0, 0.722, 1.0)
    """
    if not 0 <= successes <= trials or trials == 0:
        raise BadInput(f"{successes} successes of {trials} trials is not a share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(share, low, high)


def distinct_ngrams(items: Sequence[object], n: int) -> float:
    """Distinct-n (Li et al. 2016): different n-grams over all n-grams; 1 is no repetition, 0 is for too short a text.

    >>> distinct_ngrams("abab", 2)
    0.6666666666666666
    """
    grams = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_share(items: Sequence[object], n: int = 4) -> float:
    """Share of n-grams that already occurred earlier in the same text: how much a sample loops.

    >>> round(repeated_share("abcdabcd", n=4), 6)
    0.2
    """
    return 1.0 - distinct_ngrams(items, n) if len(items) >= n else 0.0

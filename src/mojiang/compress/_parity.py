"""How far a compressed model is from the one it was made from, on the same text and the same prompts.

Tensor suffixes:  T positions · V vocabulary
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mojiang.evaluate._scoring import document_nats
from mojiang.evaluate.metrics import Interval, ratio_interval
from mojiang.generate.engine import Engine, GenerationRequest
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer


@dataclass(frozen=True)
class Likelihoods:
    """Bits per byte of both models on the same documents, and the relative increase, paired by document."""

    before: float
    after: float
    increase: Interval


def compare_likelihoods(
    before: Network, after: Network, documents: Sequence[Sequence[int]], sizes: Sequence[int], borders: tuple[int, int],
    on_progress: Callable[[int, int], None],
) -> Likelihoods:  # fmt: skip
    """Score documents, given as token ids, of `sizes` bytes with both models."""
    context = before.config.max_position_embeddings

    def first_half(done: int, total: int) -> None:
        on_progress(done, 2 * total)

    def second_half(done: int, total: int) -> None:
        on_progress(done + total, 2 * total)

    first = document_nats(before, documents, start=borders[0], end=borders[1], context=context, on_progress=first_half)
    second = document_nats(after, documents, start=borders[0], end=borders[1], context=context, on_progress=second_half)
    scale = 1 / math.log(2) / sum(sizes)
    ratio = ratio_interval(second, first)
    increase = Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1)
    return Likelihoods(sum(first) * scale, sum(second) * scale, increase)


@dataclass(frozen=True)
class LogitDifference:
    """Over the positions of the texts given: how the next-token distributions differ."""

    positions: int
    max_difference: float
    mean_kl: float
    top1_agreement: float


@torch.no_grad()
def compare_logits(before: Network, after: Network, texts: Sequence[Sequence[int]]) -> LogitDifference:
    """Feed the same tokens to both models. KL divergence is of `after` from `before`, in nats."""
    largest = divergence = agreed = 0.0
    positions = 0
    for tokens in texts:
        tokens_1T = torch.tensor([list(tokens)], device=before.device)
        first_TV, second_TV = (model.logits(model(tokens_1T)[0]).float() for model in (before, after))
        largest = max(largest, float((first_TV - second_TV).abs().max()))
        p_TV, q_TV = first_TV.log_softmax(-1), second_TV.log_softmax(-1)
        divergence += float((p_TV.exp() * (p_TV - q_TV)).sum())
        agreed += float((first_TV.argmax(-1) == second_TV.argmax(-1)).sum())
        positions += tokens_1T.shape[1]
    return LogitDifference(positions, largest, divergence / positions, agreed / positions)


@dataclass(frozen=True)
class Decoded:
    """Greedy continuations of the prompts and the decoding speed of one stream."""

    tokens: list[tuple[int, ...]]
    tokens_per_second: float


def decode(model: Network, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], max_tokens: int) -> Decoded:
    """Continue each prompt alone and greedily for exactly `max_tokens` tokens."""
    written, seconds, count = [], 0.0, 0
    with Engine(model, tokenizer, slots=1) as engine:
        for prompt in prompts:
            request = GenerationRequest(tuple(prompt), max_tokens=max_tokens, stop_tokens=frozenset())
            started = time.perf_counter()
            generation = engine.submit(request).result()
            seconds += time.perf_counter() - started - generation.seconds_to_first_token
            count += len(generation.tokens) - 1
            written.append(generation.tokens)
    return Decoded(written, count / max(seconds, 1e-9))


def common_prefix_share(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Mean share of each continuation that is the same up to the first different token.

    >>> common_prefix_share([[1, 2, 3, 4]], [[1, 2, 9, 4]])
    0.5
    """
    shares = []
    for a, b in zip(first, second, strict=True):
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        shares.append(same / max(len(a), len(b), 1))
    return sum(shares) / len(shares) if shares else 1.0

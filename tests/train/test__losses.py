from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.train import _losses

N, D, V = 37, 16, 50


def made(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weights, bias and targets, a third of which are not trained on."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    weight, bias = (torch.randn(shape, generator=generator).requires_grad_() for shape in ((V, D), (V,)))
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[::3] = -100
    return hidden, weight, bias, targets


def number(value: Tensor) -> float:
    return value.item()


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    low = None if bias is None else bias.to(hidden.dtype)
    return F.linear(hidden, weight.to(hidden.dtype), low).float()


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("chunk", [None, 1, 5])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.01)])
def test_cross_entropy_and_its_gradients_are_those_of_pytorch(
    dtype: torch.dtype, tolerance: float, chunk: int | None, smoothing: float, z_loss: float
) -> None:
    hidden, weight, bias, targets = made(dtype)
    scores = logits(hidden, weight, bias)
    expected = F.cross_entropy(scores, targets, reduction="sum", label_smoothing=smoothing)
    expected = expected + z_loss * scores.logsumexp(-1)[targets != -100].square().sum()
    found = _losses.linear_cross_entropy(hidden, weight, targets, bias, chunk, smoothing, z_loss)
    assert found.dtype == torch.float32
    assert number(found) == pytest.approx(number(expected), rel=tolerance)
    inputs = (hidden, weight, bias)
    assert_close(torch.autograd.grad(found / 7, inputs), torch.autograd.grad(expected / 7, inputs), tolerance)


def test_the_inside_of_a_graph_computes_the_same() -> None:
    """There no rows are left out, for shapes must not depend on the data; the loss must not depend on that."""
    hidden, weight, _, targets = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        inside = _losses.linear_cross_entropy(hidden, weight, targets)
    outside = _losses.linear_cross_entropy(hidden, weight, targets)
    assert number(inside) == pytest.approx(number(outside), rel=1e-6)
    inputs = (hidden, weight)
    assert_close(torch.autograd.grad(inside, inputs), torch.autograd.grad(outside, inputs), 1e-6)


def largest(work: Callable[[], Any]) -> int:
    """Numbers (fp32) in the largest piece of memory that `work` asks for."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    return max(event.nbytes() for event in results.events() if event.name() == "[memory]") // 4


@pytest.mark.parametrize("name", ["linear_cross_entropy", "token_logprobs"])
def test_the_logits_of_all_rows_are_never_there(name: str) -> None:
    n, d, v, chunk = 96, 4, 500, 8
    hidden, weight = torch.randn(n, d, requires_grad=True), torch.randn(v, d, requires_grad=True)
    targets = torch.randint(0, v, (n,))
    loss = getattr(_losses, name)
    assert largest(lambda: F.cross_entropy(F.linear(hidden, weight), targets).backward()) == n * v
    assert largest(lambda: loss(hidden, weight, targets, None, chunk).sum().backward()) == chunk * v


def test_a_second_backward_pass_is_refused_rather_than_wrong() -> None:
    hidden, weight, _, targets = made()
    loss = _losses.linear_cross_entropy(hidden, weight, targets)
    (loss / 2).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_frozen_weights_get_no_gradient_and_no_targets_no_loss() -> None:
    hidden, weight, _, targets = made()
    _losses.linear_cross_entropy(hidden, weight.detach(), targets).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is None
    none = _losses.linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    assert number(none) == 0
    assert all(number(g.abs().sum()) == 0 for g in torch.autograd.grad(none, (hidden, weight)))
    with torch.no_grad():
        assert not _losses.linear_cross_entropy(hidden, weight, targets).requires_grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("chunk", [None, 5])
def test_token_logprobs_are_those_of_log_softmax(dtype: torch.dtype, tolerance: float, chunk: int | None) -> None:
    hidden, weight, bias, targets = made(dtype)
    right = logits(hidden, weight, bias).log_softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    expected = torch.where(targets == -100, 0.0, right)
    found = _losses.token_logprobs(hidden, weight, targets, bias, chunk)
    assert_close((found,), (expected,), tolerance)
    factors = torch.randn(N, generator=torch.Generator().manual_seed(3))
    inputs = (hidden, weight, bias)
    assert_close(
        torch.autograd.grad((found * factors).sum(), inputs),
        torch.autograd.grad((expected * factors).sum(), inputs),
        tolerance,
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_of_the_two_softmaxes(temperature: float) -> None:
    hidden, weight, _, _ = made()
    teacher_hidden, teacher_weight = torch.randn(N, 9), torch.randn(V, 9)
    wanted = (F.linear(teacher_hidden, teacher_weight) / temperature).log_softmax(-1)
    found = (logits(hidden, weight, None) / temperature).log_softmax(-1)
    expected = temperature**2 * F.kl_div(found, wanted, log_target=True, reduction="sum")
    for chunk in (None, 5):
        ours = _losses.kd_logits(hidden, weight, teacher_hidden, teacher_weight, temperature, chunk)
        assert number(ours) == pytest.approx(number(expected), rel=1e-5)
        inputs = (hidden, weight)
        assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs, retain_graph=True), 1e-5)
    with pytest.raises(BadInput, match="50 tokens, the teacher's 40"):
        _losses.kd_logits(hidden, weight, teacher_hidden, teacher_weight[:40])


def test_the_gradient_of_the_temperature_keeps_its_size() -> None:
    """Hinton et al. 2015: at high temperatures the gradient tends to (z - v) / V for centred logits, whatever T."""
    hidden, weight, _, _ = made()
    teacher = torch.randn(N, D)
    sizes = []
    for temperature in (50.0, 500.0):
        loss = _losses.kd_logits(hidden, weight, teacher, weight.detach(), temperature)
        sizes.append(number(torch.autograd.grad(loss, hidden)[0].norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


Pairs = tuple[Tensor, Tensor]


@pytest.fixture
def pairs() -> Pairs:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, generator=generator) * 4, torch.randn(6, generator=generator) * 4


def by_hand(pairs: Pairs, formula: Callable[[float, float], float]) -> float:
    return sum(formula(c, r) for c, r in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_pair_losses_follow_their_papers(pairs: Pairs) -> None:
    beta = 0.3
    assert number(_losses.dpo(*pairs, beta)) == pytest.approx(
        by_hand(pairs, lambda c, r: -math.log(sigmoid(beta * (c - r)))), rel=1e-5
    )
    assert number(_losses.dpo(*pairs, beta, label_smoothing=0.2)) == pytest.approx(
        by_hand(pairs, lambda c, r: -0.8 * math.log(sigmoid(beta * (c - r))) - 0.2 * math.log(sigmoid(beta * (r - c)))),
        rel=1e-5,
    )
    assert number(_losses.ipo(*pairs, beta)) == pytest.approx(
        by_hand(pairs, lambda c, r: (c - r - 1 / (2 * beta)) ** 2), rel=1e-5
    )
    assert number(_losses.bradley_terry(*pairs)) == pytest.approx(
        by_hand(pairs, lambda c, r: -math.log(sigmoid(c - r))), rel=1e-5
    )
    margin = torch.full((6,), 0.7)
    assert number(_losses.bradley_terry(*pairs, margin)) == pytest.approx(
        by_hand(pairs, lambda c, r: -math.log(sigmoid(c - r - 0.7))), rel=1e-5
    )


def test_the_odds_ratio_is_that_of_probabilities(pairs: Pairs) -> None:
    """ORPO: odds(p) = p / (1 - p); also for answers so likely or unlikely that p rounds to 1 or to 0."""
    chosen, rejected = (torch.log(torch.sigmoid(side)) for side in pairs)
    found, odds = _losses.orpo(chosen, rejected)
    expected = [c - r for c, r in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)]  # logit(σ(x)) = x
    assert odds.tolist() == pytest.approx(expected, rel=1e-4)
    assert number(found) == pytest.approx(sum(-math.log(sigmoid(o)) for o in expected), rel=1e-4)
    extreme = torch.tensor([-1e-9, -90.0, 0.0], requires_grad=True)
    loss, _ = _losses.orpo(extreme, extreme.detach().flip(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(extreme.grad).all())  # type: ignore[arg-type]


def test_kto_values_gains_and_losses_around_the_reference_point() -> None:
    ratios, good = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([True, False, False])
    beta, kl = 0.5, 0.25
    expected = 1.0 * (1 - sigmoid(beta * (2.0 - kl)))
    expected += 1.5 * ((1 - sigmoid(beta * (kl + 1.0))) + (1 - sigmoid(beta * (kl - 0.5))))
    assert number(_losses.kto(ratios, good, kl, beta, 1.0, 1.5)) == pytest.approx(expected, rel=1e-6)
    divergence = torch.tensor(-3.0, requires_grad=True)  # an estimate below 0 counts as 0, and is no way to learn
    loss = _losses.kto(ratios.requires_grad_(), good, divergence, beta)
    assert number(loss) == pytest.approx(number(_losses.kto(ratios, good, 0.0, beta)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert divergence.grad is None


def test_grpo_clips_what_would_go_on_in_the_rewarded_direction() -> None:
    ratios = [1.0, 1.5, 1.5, 0.5, 0.5]
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    old = torch.full((5,), -2.0)
    logprobs = (old + torch.tensor(ratios).log()).requires_grad_()
    loss, shown = _losses.grpo_clip(logprobs, old, advantages, clip_low=0.2, clip_high=0.3)
    # min(r A, clip(r) A): 1, 1.3, -1.5, 0.5, -0.8
    assert number(loss) == pytest.approx(-(1 + 1.3 - 1.5 + 0.5 - 0.8), rel=1e-5)
    assert number(shown["clipped"]) == 2
    assert number(shown["ratio"]) == pytest.approx(sum(ratios))
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient.tolist() == pytest.approx([-1.0, 0.0, 1.5, -0.5, 0.0], abs=1e-6)


def test_the_first_step_of_grpo_is_the_policy_gradient() -> None:
    hidden, weight, _, targets = made()
    advantages = torch.randn(N)
    logprobs = _losses.token_logprobs(hidden, weight, targets)
    loss, shown = _losses.grpo_clip(logprobs, logprobs.detach(), advantages)
    plain = torch.autograd.grad(-(logprobs * advantages).sum(), weight, retain_graph=True)
    assert_close(torch.autograd.grad(loss, weight), plain, 1e-6)
    assert number(shown["clipped"]) == 0


def test_the_divergence_estimate_is_unbiased() -> None:
    """k3, summed over every token of a vocabulary with its probability, is KL(policy ‖ reference)."""
    policy, reference = torch.randn(2, 30).log_softmax(-1)
    _, shown = _losses.grpo_clip(policy, policy, torch.zeros(30), reference_N=reference, beta=0.0)
    weighted = (policy.exp() * ((reference - policy).exp() - (reference - policy) - 1)).sum()
    assert number(weighted) == pytest.approx(
        number(F.kl_div(reference, policy, log_target=True, reduction="sum")), rel=1e-4
    )
    assert number(shown["kl"]) == pytest.approx(
        number(((reference - policy).exp() - (reference - policy) - 1).sum()), rel=1e-5
    )
    with_kl, _ = _losses.grpo_clip(policy, policy, torch.zeros(30), reference_N=reference, beta=0.1)
    assert number(with_kl) == pytest.approx(0.1 * number(shown["kl"]), rel=1e-5)


def test_info_nce_is_a_classification_of_the_keys() -> None:
    queries, keys = torch.randn(4, 8), torch.randn(7, 8)
    cosine = torch.tensor([[number(F.cosine_similarity(q, k, dim=0)) for k in keys] for q in queries])
    expected = sum(
        -math.log(math.exp(row[i] / 0.1) / sum(math.exp(s / 0.1) for s in row)) for i, row in enumerate(cosine.tolist())
    )
    assert number(_losses.info_nce(queries, keys, 0.1)) == pytest.approx(expected, rel=1e-4)
    # Part of a batch against all keys, as ranks and micro-batches see it, adds up to the whole.
    places = torch.arange(4)
    parts = [_losses.info_nce(queries[at], keys, 0.1, places[at]) for at in (slice(0, 1), slice(1, 4))]
    assert number(parts[0] + parts[1]) == pytest.approx(expected, rel=1e-4)
    there, back = _losses.info_nce(queries, keys[:4], 0.1), _losses.info_nce(keys[:4], queries, 0.1)
    both = _losses.info_nce(queries, keys[:4], 0.1, symmetric=True)
    assert number(both) == pytest.approx(number(there + back) / 2, rel=1e-5)


def test_losses_on_hidden_states_and_tokens_are_sums_of_their_definitions() -> None:
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    assert number(_losses.hidden_mse(a, b)) == pytest.approx(5 * number(F.mse_loss(a, b)), rel=1e-5)
    cosine = F.cosine_embedding_loss(a, b, torch.ones(5), reduction="sum")
    assert number(_losses.hidden_cosine(a, b)) == pytest.approx(number(cosine), rel=1e-5)
    scores, replaced = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([1, 0, 0])
    expected = -math.log(sigmoid(0.5)) - math.log(1 - sigmoid(-2.0)) - math.log(1 - sigmoid(3.0))
    assert number(_losses.replaced_token(scores, replaced)) == pytest.approx(expected, rel=1e-5)


def test_spans_are_scored_where_an_answer_may_be() -> None:
    scores = torch.randn(3, 6, 2)
    starts, stops = torch.tensor([1, 0, -100]), torch.tensor([4, 2, -100])
    expected = sum(
        -number(scores[row, :, side].log_softmax(0)[place]) / 2
        for row in range(2)
        for side, place in ((0, int(starts[row])), (1, int(stops[row])))
    )
    assert number(_losses.span_ce(scores, starts, stops)) == pytest.approx(expected, rel=1e-5)
    allowed = torch.ones(3, 6, dtype=torch.bool)
    allowed[:, 5] = False
    inside = _losses.span_ce(scores[:, :5], starts, stops)
    assert number(_losses.span_ce(scores, starts, stops, allowed)) == pytest.approx(number(inside), rel=1e-5)

"""The CRF against enumeration of every label sequence, and its gradients against finite differences."""

from __future__ import annotations

import re
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model._crf import CRF, IGNORED, illegal_transitions

LENGTHS = (4, 1, 3, 0)


def made(num_labels: int = 3, dtype: torch.dtype = torch.float64) -> tuple[CRF, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    crf = CRF(num_labels).to(dtype)
    for parameter in crf.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    scores = torch.randn(len(LENGTHS), 4, num_labels, generator=generator).to(dtype)
    tags = torch.randint(0, num_labels, (len(LENGTHS), 4), generator=generator)
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    return crf, scores, tags.where(mask, IGNORED), mask


def score(crf: CRF, scores: Tensor, tags: list[int]) -> float:
    """The definition, in plain arithmetic."""
    crf, scores = deepcopy(crf).requires_grad_(False), scores.detach()
    total = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
    total = total + sum(scores[t, tag] for t, tag in enumerate(tags))
    return float(total + sum(crf.transitions[a, b] for a, b in zip(tags, tags[1:], strict=False)))


def all_scores(crf: CRF, scores: Tensor) -> dict[tuple[int, ...], float]:
    paths = product(range(scores.shape[1]), repeat=len(scores))
    return {path: score(crf, scores, list(path)) for path in paths}


def test_likelihood_is_a_paths_share_of_all_paths() -> None:
    crf, scores, tags, mask = made()
    found = crf.log_likelihood(scores, tags, mask)
    for row, length in enumerate(LENGTHS[:3]):
        every = all_scores(crf, scores[row, :length])
        expected = every[tuple(tags[row, :length].tolist())] - torch.tensor(list(every.values())).logsumexp(0)
        torch.testing.assert_close(found[row], expected.double(), rtol=1e-6, atol=1e-6)
    assert found[3] == 0


def test_decoding_finds_the_best_path() -> None:
    crf, scores, _, mask = made()
    found = crf.decode(scores, mask)
    for row, length in enumerate(LENGTHS[:3]):
        every = all_scores(crf, scores[row, :length])
        assert tuple(found[row, :length].tolist()) == max(every, key=every.__getitem__)
    assert (found[~mask] == IGNORED).all()


def test_gradients_are_those_of_finite_differences() -> None:
    crf, scores, tags, mask = made()

    def likelihood(scores: Tensor, *_: Tensor) -> Tensor:
        return crf.log_likelihood(scores, tags, mask)

    # gradcheck perturbs its inputs in place, so the parameters need not be passed through
    assert torch.autograd.gradcheck(likelihood, (scores.requires_grad_(), *crf.parameters()))


def test_positions_outside_the_mask_are_passed_over_wherever_they_are() -> None:
    crf, scores, tags, _ = made()
    mask = torch.tensor([[False, True, True, False]] * len(LENGTHS))
    tags = tags.clamp(min=0)
    alone = crf.log_likelihood(scores[:, 1:3], tags[:, 1:3], torch.ones_like(mask[:, 1:3]))
    torch.testing.assert_close(crf.log_likelihood(scores, tags, mask), alone)
    decoded = crf.decode(scores, mask)
    assert torch.equal(decoded[:, 1:3], crf.decode(scores[:, 1:3], mask[:, 1:3]))
    assert (decoded[~mask] == IGNORED).all()


def test_half_precision_scores_are_summed_in_fp32() -> None:
    crf, scores, tags, mask = made(dtype=torch.float32)
    found = crf.log_likelihood(scores.bfloat16(), tags, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, crf.log_likelihood(scores.bfloat16().float(), tags, mask))


def test_decoding_with_a_scheme_finds_the_best_legal_path() -> None:
    labels = ["B-A", "I-A", "B-B", "I-B", "O"]
    illegal = illegal_transitions(labels, "bio")
    generator = torch.Generator().manual_seed(3)
    crf = CRF(5)
    scores = torch.randn(20, 4, 5, generator=generator) * 3
    mask = torch.ones(20, 4, dtype=torch.bool)
    free, found = crf.decode(scores, mask), crf.decode(scores, mask, illegal)

    def legal(path: tuple[int, ...]) -> bool:
        names = ["O"] + [labels[tag] for tag in path]
        pairs = zip(names, names[1:], strict=False)
        return all(not after.startswith("I-") or before[2:] == after[2:] for before, after in pairs)

    assert not all(legal(tuple(path)) for path in free.tolist())  # otherwise the scheme had nothing to forbid
    for row, path in enumerate(found.tolist()):
        every = {path: s for path, s in all_scores(crf, scores[row]).items() if legal(path)}
        assert tuple(path) == max(every, key=every.__getitem__)


def test_segmentation_labels_spell_whole_words_only() -> None:
    """All legal B/M/E/S strings of length 4 are those a regular expression accepts."""
    labels = list("BMES")
    first, pairs, last = illegal_transitions(labels, "bmes")
    for word in product(range(4), repeat=4):
        spelled = "".join(labels[tag] for tag in word)
        moves = any(pairs[a, b] for a, b in zip(word, word[1:], strict=False))
        assert (not (first[word[0]] or moves or last[word[-1]])) == bool(re.fullmatch("(S|BM*E)*", spelled))


def test_labels_of_another_scheme_are_refused() -> None:
    with pytest.raises(BadInput, match="E-A"):
        illegal_transitions(["B-A", "I-A", "E-A", "O"], "bio")
    with pytest.raises(BadInput, match="unknown"):
        illegal_transitions(["O"], "iob1")

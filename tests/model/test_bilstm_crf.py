"""The tagger: sequences in a batch against each alone, its layers against the CRF they end in, and learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model.bilstm_crf import BiLSTMCRF, BiLSTMCRFConfig
from mojiang.model.load import load_model, save_model

LENGTHS = (7, 1, 4)
SPANS = torch.tensor([[row, 0, length] for row, length in enumerate(LENGTHS)])
MASK = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
LABELS = dict(enumerate("BMES"))


def made(**changes: Any) -> BiLSTMCRF:
    config = BiLSTMCRFConfig(30, 6, 5, **{"num_labels": 4, "id2label": LABELS, **changes})
    model = BiLSTMCRF(config).init_weights(0).eval()
    with torch.no_grad():
        for n, parameter in enumerate(model.crf.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)))
        model.classifier.weight.mul_(10)
    return model


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 30, (3, 9), generator=generator), torch.randint(0, 4, (3, 9), generator=generator)


@pytest.mark.parametrize("mask", [MASK, SPANS])
def test_a_padded_batch_gives_what_each_sequence_gives_alone(mask: Tensor) -> None:
    model, (x, tags) = made(), data()
    scores = model.scores(model(x, mask=mask), mask)
    likelihood, best = model.log_likelihood(scores, tags, mask), model.decode(scores, mask)
    for row, length in enumerate(LENGTHS):
        alone = model.scores(model(x[row : row + 1, :length]))
        torch.testing.assert_close(scores[row, :length], alone[0])
        torch.testing.assert_close(likelihood[row], model.log_likelihood(alone, tags[row : row + 1, :length])[0])
        assert torch.equal(best[row, :length], model.decode(alone)[0])
        assert best[row, length:].eq(-100).all()


def test_packed_sequences_do_not_see_each_other() -> None:
    model, (x, tags) = made(), data()
    scores = model.scores(model(x, mask=SPANS))
    row, row_tags = (torch.cat([a[n, :length] for n, length in enumerate(LENGTHS)])[None] for a in (x, tags))
    packed = torch.tensor([[0, 0, 7], [0, 7, 8], [0, 8, 8], [0, 8, 12]])
    packed_scores = model.scores(model(row, mask=packed))
    torch.testing.assert_close(
        model.log_likelihood(packed_scores, row_tags, packed), model.log_likelihood(scores, tags, SPANS)
    )
    best = model.decode(scores, SPANS)
    assert torch.equal(model.decode(packed_scores, packed)[0], best[best >= 0])


def test_likelihoods_of_all_taggings_sum_to_one() -> None:
    model, (x, _) = made(), data()
    scores = model.scores(model(x[:1, :3])).expand(64, -1, -1)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    likelihood = model.log_likelihood(scores, every).exp()
    torch.testing.assert_close(likelihood.sum(), torch.tensor(1.0))
    assert torch.equal(every[likelihood.argmax()], model.decode(scores[:1])[0])


def test_positions_without_a_tag_are_passed_over() -> None:
    model, (x, tags) = made(), data()
    scores = model.scores(model(x))
    holes = tags.clone()
    holes[:, [0, 4]] = -100
    kept = [1, 2, 3, 5, 6, 7, 8]
    torch.testing.assert_close(
        model.log_likelihood(scores, holes), model.log_likelihood(scores[:, kept], tags[:, kept])
    )


def test_with_a_scheme_only_legal_taggings_are_decoded() -> None:
    import re

    free, bound = made(), made(scheme="bmes")
    x = torch.randint(0, 30, (20, 6), generator=torch.Generator().manual_seed(4))
    spelled = [
        ["".join(LABELS[tag] for tag in row) for row in m.decode(m.scores(m(x))).tolist()] for m in (free, bound)
    ]
    words = re.compile("(S|BM*E)*")
    assert not all(words.fullmatch(row) for row in spelled[0])
    assert all(words.fullmatch(row) for row in spelled[1])


def test_it_learns_what_no_position_shows_alone() -> None:
    """Tags that alternate from a start only the first token shows: the sequence must be read."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(2, 30, (32, 6), generator=generator)
    x[:, 0] = torch.arange(32) % 2
    tags = (x[:, :1] + torch.arange(6)) % 2
    model = BiLSTMCRF(BiLSTMCRFConfig(30, 8, 8, num_labels=2)).init_weights(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(30):
        optimizer.zero_grad()
        (-model.log_likelihood(model.scores(model(x)), tags).mean()).backward()
        optimizer.step()
    assert (model.decode(model.scores(model(x))) == tags).float().mean() > 0.95


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model, (x, tags) = made(scheme="bmes"), data()
    save_model(model, None, tmp_path)
    again = load_model(tmp_path)
    assert again.config.to_hf() == model.config.to_hf()
    assert torch.equal(
        again.log_likelihood(again.scores(again(x)), tags), model.log_likelihood(model.scores(model(x)), tags)
    )
    save_model(made(), None, tmp_path / "free")
    new = load_model(tmp_path / "free", num_labels=2)
    assert torch.equal(new(x), model(x))
    assert new.decode(new.scores(new(x))).max() < 2


@pytest.mark.parametrize("change", [{"scheme": "iob1"}, {"scheme": "bio"}, {"scheme": "bio", "id2label": None}])
def test_schemes_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    labels = {str(n): label for n, label in LABELS.items()}
    with pytest.raises(BadInput):
        BiLSTMCRF.from_hf({"vocab_size": 9, "id2label": labels, "num_labels": 4, **change})

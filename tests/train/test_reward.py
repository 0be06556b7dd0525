"""The reward recipe is tested beside the preferences it shares with `train.dpo`, in test_dpo.py; here is its loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.train._batches import Examples
from mojiang.train._preferences import PairwiseReward


def test_the_loss_is_that_of_bradley_and_terry_on_the_last_tokens() -> None:
    config = DecoderConfig(50, 32, 2, 4, 2, 48, 8, head="sequence_classification", num_labels=1)
    model = Decoder(config).init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.2)
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(0, 50, 9), rng.integers(0, 50, 13)
    batch = Examples({
        "chosen": [chosen[:-1]], "chosen_targets": [chosen[1:]], "rejected": [rejected[:-1]],
        "rejected_targets": [rejected[1:]], "both": [np.zeros(20)],
    }, "both")  # fmt: skip
    scores = [
        float(model.scores(model(torch.from_numpy(row)[None]), None).detach()[0, 0]) for row in (chosen, rejected)
    ]
    expected = math.log1p(math.exp(scores[1] - scores[0]))
    assert float(PairwiseReward().losses(model, batch)["loss"].detach()) == pytest.approx(expected, rel=1e-5)

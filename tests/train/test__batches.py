from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import PackedRows, Sequence, write_shards
from mojiang.train._batches import Drawn, Examples, Mixed, Shuffled, padded


def rows(folder: Path, count: int, token: int) -> PackedRows:
    return PackedRows(write_shards([Sequence(np.full(9, token), 9) for _ in range(count)], folder, 100), 8)


def test_every_epoch_has_each_row_once_in_another_order(tmp_path: Path) -> None:
    source = Shuffled(rows(tmp_path, 30, 1), 4, seed=0)
    numbers = [n for step in range(15) for n in source.numbers(step)]
    assert sorted(numbers[:30]) == sorted(numbers[30:]) == list(range(30))
    assert numbers[:30] != numbers[30:]


def test_any_step_can_be_asked_for_at_any_time(tmp_path: Path) -> None:
    packed = rows(tmp_path, 30, 1)
    forwards, backwards = Shuffled(packed, 4, seed=5), Shuffled(packed, 4, seed=5)
    expected = {step: forwards.numbers(step) for step in range(20)}
    assert {step: backwards.numbers(step) for step in reversed(range(20))} == expected


def test_mixed_batches_hold_rows_of_both(tmp_path: Path) -> None:
    mixed = Mixed(Shuffled(rows(tmp_path / "a", 9, 1), 3, 0), Shuffled(rows(tmp_path / "b", 9, 2), 1, 0))
    batch = mixed.batch(0)
    assert batch.tokens_BT[:, 0].tolist() == [1, 1, 1, 2]
    assert [batch.take(part).num_targets for part in batch.micro(16)] == [16, 16]


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to train on"):
        Shuffled(rows(tmp_path, 0, 1), 2, 0)


def test_padded_micro_batches_hold_every_row_once_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    batch = Examples({"tokens": [np.arange(n) for n in rng.integers(1, 90, 50)], "label": np.arange(50)}, "tokens")
    parts = list(batch.micro(256))
    assert sorted(row for part in parts for row in part) == list(range(50))
    for part in parts:
        tokens_BT, spans_N3 = padded(batch.take(part)["tokens"], 7)
        assert tokens_BT.numel() <= 256
        assert (spans_N3[:, 2] == torch.tensor([len(row) for row in batch.take(part)["tokens"]])).all()
        assert (tokens_BT[0, spans_N3[0, 2] :] == 7).all()
    read = sum(padded(batch.take(part)["tokens"], 7)[0].numel() for part in parts)
    assert read < 1.5 * batch.num_tokens, "rows of like length stand together"


def test_drawn_examples_come_in_the_order_of_any_other_source() -> None:
    source = Drawn(10, 4, 3, lambda rows, step: (rows, step))
    seen = [row for step in range(5) for row in source.batch(step)[0]]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert source.steps_per_epoch == 2.5

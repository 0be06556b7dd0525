from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import PackedRows, Sequence, write_shards
from mojiang.train._batches import Mixed, Shuffled, micro_batches


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
    assert [part.num_targets for part in micro_batches(batch, 2)] == [16, 16]


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to train on"):
        Shuffled(rows(tmp_path, 0, 1), 2, 0)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mojiang.core.errors import Corrupted
from mojiang.tokenizer._pack import (
    IGNORE,
    PackedRows,
    Rows,
    Sequence,
    Shards,
    best_fit_decreasing,
    keyed_order,
    write_shards,
)


def sequences(lengths: list[int], seed: int = 0) -> list[Sequence]:
    rng = np.random.default_rng(seed)
    return [Sequence(rng.integers(0, 1000, n), 3 * n) for n in lengths]


def pairs(rows: Rows) -> list[tuple[int, int]]:
    """Every (input, target) pair of a batch, sorted."""
    real = rows.documents_BT > 0
    return sorted(zip(rows.tokens_BT[real].tolist(), rows.targets_BT[real].tolist(), strict=True))


@pytest.mark.parametrize("row_tokens", [16, 50, 128])
def test_every_pair_of_neighbouring_tokens_is_trained_on_exactly_once(tmp_path: Path, row_tokens: int) -> None:
    documents = sequences([5, 200, 33, 2, 17, 129, 64, 50, 51])
    packed = PackedRows(write_shards(documents, tmp_path, 1000), row_tokens)
    expected = sorted(
        pair for d in documents for pair in zip(d.tokens[:-1].tolist(), d.tokens[1:].tolist(), strict=True)
    )
    assert pairs(packed.rows(range(len(packed)))) == expected
    assert packed.num_bytes == sum(d.num_bytes for d in documents)


def test_positions_restart_with_each_document(tmp_path: Path) -> None:
    packed = PackedRows(write_shards(sequences([5, 4, 30]), tmp_path, 1000), 16)
    rows = packed.rows(range(len(packed)))
    for row, start, stop in rows.spans_N3.tolist():
        assert rows.positions_BT[row, start:stop].tolist() == list(range(stop - start))


def test_padding_waste_stays_small(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).lognormal(6.5, 1.2, 600).astype(int) + 2
    packed = PackedRows(write_shards(sequences(lengths.tolist()), tmp_path, 1000), 1024)
    assert packed.token_use >= 0.98


def test_best_fit_decreasing_respects_capacity_and_is_near_the_lower_bound() -> None:
    sizes = np.random.default_rng(2).integers(1, 101, 2000)
    bins = best_fit_decreasing(sizes, 100)
    assert sorted(item for row in bins for item in row) == list(range(2000))
    assert max(int(sizes[row].sum()) for row in bins) <= 100
    assert len(bins) <= 11 / 9 * np.ceil(sizes.sum() / 100) + 1  # Johnson's bound


def test_shards_split_at_documents_and_read_back(tmp_path: Path) -> None:
    documents = sequences([40, 50, 30, 70])
    shards = write_shards(documents, tmp_path, vocab_size=70_000, shard_tokens=100)
    assert [shard["tokens"] for shard in shards.shards] == [90, 100]
    assert [shard["bytes"] for shard in shards.shards] == [270, 300]
    assert (tmp_path / "tokens-00000.bin").stat().st_size == 90 * 4  # beyond uint16
    for number, document in enumerate(documents):
        assert shards.sequence(number)[0].tolist() == document.tokens.tolist()


def test_only_what_is_marked_is_a_target(tmp_path: Path) -> None:
    tokens, trained = np.array([7, 8, 9, 10, 11]), np.array([0, 0, 1, 0, 1], bool)
    rows = PackedRows(write_shards([Sequence(tokens, 0, trained)], tmp_path, 100), 8).rows([0])
    assert rows.targets_BT[0].tolist() == [IGNORE, 9, IGNORE, 11, IGNORE, IGNORE, IGNORE, IGNORE]
    assert rows.num_targets == 2


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    write_shards(sequences([40, 50]), tmp_path, 1000)
    file = tmp_path / "tokens-00000.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(Corrupted, match=r"has 178 bytes, not 180"):
        Shards(tmp_path)


def test_the_order_is_a_permutation_keyed_by_seed_and_epoch() -> None:
    orders = [keyed_order(1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order.tolist()) == list(range(1000)) for order in orders)
    fixed = [
        int((a == b).sum()) for a, b in ((orders[0], orders[1]), (orders[0], orders[2]), (orders[0], np.arange(1000)))
    ]
    assert max(fixed) < 10  # two unrelated permutations agree at one place on average
    assert (keyed_order(1000, 0, 1) == orders[1]).all()


def test_parts_and_stacks_keep_rows_and_spans(tmp_path: Path) -> None:
    packed = PackedRows(write_shards(sequences([5, 4, 30, 12, 9]), tmp_path, 1000), 16)
    whole = packed.rows(range(len(packed)))
    parts = [whole.take([n]) for n in range(len(packed))]
    assert sorted(pair for part in parts for pair in pairs(part)) == pairs(whole)
    again = parts[0]
    for part in parts[1:]:
        again = Rows.stacked(again, part)
    assert again.spans_N3.tolist() == whole.spans_N3.tolist()
    assert (again.documents_BT > 0).tolist() == (whole.documents_BT > 0).tolist()

"""Training data counted against the shards themselves."""

from typing import Any

import pyarrow.parquet as pq

from mojiang.trust._evidence import parent_model, reports_on, training_data


def test_training_data_adds_up_to_the_training_split(world: Any) -> None:
    shares = training_data(world.store, world.model)
    table = [pq.read_table(path) for path in sorted((world.data.path / "train").glob("*.parquet"))]
    assert sum(s.bytes for s in shares) == sum(sum(t["bytes"].to_pylist()) for t in table)
    assert sum(s.documents for s in shares) == sum(t.num_rows for t in table)
    assert {(s.language, s.format, s.licence) for s in shares} == {
        ("python", "code", "PSF-2.0"),
        ("zh", "txt", "PSF-2.0"),
    }
    assert [s.bytes for s in shares] == sorted((s.bytes for s in shares), reverse=True)


def test_a_dataset_has_no_training_data_and_no_model_parent(world: Any) -> None:
    assert training_data(world.store, world.data) == []
    assert parent_model(world.store, world.model) is None
    assert reports_on(world.store, world.data) == []

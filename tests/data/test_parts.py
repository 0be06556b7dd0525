"""Steps in parts: what a part wrote is not done again, and the parts add up to what one go gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import RunFailed
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data import _loading, _mapping, _parts
from mojiang.data._documents import read_documents, shard_paths
from mojiang.data.clean import Clean
from mojiang.data.load import Load

ALONE = Circumstance(engine=LocalEngine(workers=1))
FILES = {f"{n:03d}.txt": f"text number {n} \x07" + " and more words" * 400 if n % 5 else f"{n % 7}" for n in range(120)}


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    return [row for batch in read_documents(artifact.path) for row in batch.to_pylist()]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one unit, and units and row groups of a few documents."""
    monkeypatch.setattr(_parts, "PART_BYTES", 1)
    monkeypatch.setattr(_loading, "_UNIT_FILES", 16)


def test_parts_give_what_one_go_gives(
    folder: Callable[..., Path], store: Store, request: pytest.FixtureRequest
) -> None:
    source = str(folder(FILES))
    whole = execute(Clean(data=execute(Load(source=source), store).artifact.ref), store, circumstance=ALONE).artifact
    request.getfixturevalue("small_parts")
    corpus = execute(Load(source=source, licence="MIT"), store, circumstance=ALONE).artifact  # another fingerprint
    assert len(shard_paths(corpus.path)) == 8
    assert len(shard_paths(corpus.path, prefix="origins")) == 8
    cleaned = execute(Clean(data=corpus.ref), store, circumstance=ALONE).artifact
    assert [{**row, "licence": ""} for row in rows_of(cleaned)] == [{**row, "licence": ""} for row in rows_of(whole)]
    assert cleaned.metrics == whole.metrics
    ours, theirs = (Report.load(artifact.path) for artifact in (cleaned, whole))
    assert ours.scalars == theirs.scalars
    assert [t for t in ours.tables if "licence" not in t.title] == [
        t for t in theirs.tables if "licence" not in t.title
    ]
    drops = [sum(1 for _ in a.path.glob("drops-*.parquet")) for a in (cleaned, whole)]
    assert drops == [8, 1]  # every part has three files with nothing in them


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("broken", [0, 3, 7])
def test_a_step_that_died_goes_on_at_the_part_at_hand(
    folder: Callable[..., Path], store: Store, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    corpus = execute(Load(source=str(folder(FILES))), store, circumstance=ALONE).artifact
    undisturbed = execute(Clean(data=corpus.ref), store, name="undisturbed", circumstance=ALONE).artifact
    calls: list[int] = []
    original = _mapping.of_group

    def fails(function: Any, group: Any) -> Any:
        calls.append(1)
        if len(calls) == broken + 1:
            raise MemoryError("the machine is gone")
        return original(function, group)

    monkeypatch.setattr(_mapping, "of_group", fails)
    step = Clean(data=corpus.ref, min_characters=7)  # another fingerprint, the same result
    with pytest.raises(RunFailed, match="the machine is gone"):
        execute(step, store, circumstance=ALONE)
    made = execute(step, store, circumstance=ALONE).artifact
    assert len(calls) == 8 + 1  # only the part that failed was done twice
    assert rows_of(made) == rows_of(undisturbed)
    assert {name: f for name, f in made.manifest.files.items() if name != "report.json"} == {
        name: f for name, f in undisturbed.manifest.files.items() if name != "report.json"
    }
    assert made.metrics == undisturbed.metrics
    assert not (store.workspace / "scratch" / made.fingerprint).exists()

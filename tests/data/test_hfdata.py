"""Data sets laid out as on the Hub, read through the real `datasets` library; the Hub itself by a loopback server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mojiang.core.errors import BadInput, Interrupted, NotFound
from mojiang.data._hfdata import fetch_hub, located
from mojiang.data._remote import Hub
from mojiang.data._snapshot import Snapshot
from mojiang.data.load import Load

pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Two shards of a train split and one of test, with a card."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        texts = [f"Text {shard * 1500 + i} of the set. 第{i}条。" for i in range(1500)]
        table = pa.table({"text": texts, "label": list(range(1500))})
        pq.write_table(table, folder / "data" / f"train-{shard:05d}-of-00002.parquet", row_group_size=200)
    pq.write_table(pa.table({"text": ["a test row"], "label": [0]}), folder / "data" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A set\n")
    return folder


def test_a_folder_of_shards_is_streamed_with_its_licence(local: Path, make: Callable[..., Any], rows: Any) -> None:
    found = rows(make(Load(source=f"hf:{local}")))
    assert [row["text"].partition(" of")[0] for row in found] == [f"Text {i}" for i in range(3000)]
    assert {row["licence"] for row in found} == {"Apache-2.0"}
    assert [row["text"] for row in rows(make(Load(source=f"hf:{local}", hub=Hub(split="test"))))] == ["a test row"]
    assert len(rows(make(Load(source=f"hf:{local}", hub=Hub(rows=1234))))) == 1234


def test_an_interrupted_stream_goes_on_at_its_row(local: Path, tmp_path: Path) -> None:
    shot = Snapshot(tmp_path / "shot")

    def stop() -> None:
        if len(shot.chunks) == 2:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        fetch_hub(f"hf:{local}", Hub(), ("text",), shot, stop, lambda *_: None)
    again = Snapshot(tmp_path / "shot")
    assert again.next["rows"] == 2000
    fetch_hub(f"hf:{local}", Hub(), ("text",), again, lambda: None, lambda *_: None)
    lines = [json.loads(line) for file in again.files() for line in file.path.read_text().splitlines()]
    assert [line["text"].partition(" of")[0] for line in lines] == [f"Text {i}" for i in range(3000)]


def test_wrong_names(local: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(BadInput, match="[Uu]nknown split|Bad split") as caught:
        make(Load(source=f"hf:{local}", hub=Hub(split="dev")))
    assert "--hub.split" in caught.value.hint
    with pytest.raises(NotFound, match="no folder"):
        make(Load(source="hf:./nowhere"))
    with pytest.raises(BadInput, match="names no data set"):
        located("hf:a/b/c")

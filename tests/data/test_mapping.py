"""Mapping over a corpus: order and accounting are the same on one process and on several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mojiang.core.artifact import Artifact
from mojiang.core.store import Store
from mojiang.data._documents import read_documents
from mojiang.data._mapping import map_texts
from mojiang.data.clean import Clean


def shout(row: dict[str, Any], changes: Counter[str]) -> tuple[str, str, str]:
    if "drop" in row["text"]:
        return row["text"], "said so", "drop"
    changes["shouted"] += 1
    return row["text"].upper(), "", ""


def test_a_batch_is_mapped_dropped_and_counted(corpus: Callable[..., Artifact]) -> None:
    made = corpus({"a.txt": "straße", "b.txt": "drop me", "c.txt": "OK"})
    batch = next(read_documents(made.path))
    mapped = map_texts(shout, batch)
    assert [(r["path"], r["text"], r["bytes"]) for r in mapped.kept.to_pylist()] == [
        ("a.txt", "STRASSE", 7), ("c.txt", "OK", 2),
    ]  # fmt: skip
    assert [(d.path, d.reason, d.bytes) for d in mapped.drops] == [("b.txt", "said so", 7)]
    assert (mapped.rows_in, mapped.bytes_in) == (3, 7 + 7 + 2)
    assert mapped.changes == {"shouted": 2, "documents changed": 1}
    assert mapped.kept.schema == batch.schema
    assert partial(map_texts, shout)(batch.slice(0, 0)).kept.num_rows == 0


def test_processes_and_one_process_agree(corpus: Callable[..., Artifact], make: Callable[..., Artifact], tmp_path: Path,
                                         store: Store) -> None:  # fmt: skip
    data = corpus({f"{i:03d}.txt": ("word " * 100 + f"text number {i}\x07 ") * 600 for i in range(40)})
    alone = make(Clean(data=data.ref))
    pooled = Clean(data=data.ref, min_characters=9).execute(store)  # another fingerprint, the same result
    texts = [[r for b in read_documents(a.path) for r in b.to_pylist()] for a in (alone, pooled)]
    assert texts[0] == texts[1]
    assert alone.metrics == pooled.metrics

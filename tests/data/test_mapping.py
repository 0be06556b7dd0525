"""Mapping over a corpus: order and accounting are the same on one process and on several."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mojiang.core.artifact import Artifact
from mojiang.core.store import Store
from mojiang.data import filter as filtering
from mojiang.data import normalize, pii
from mojiang.data._accounting import Changes, excerpt
from mojiang.data._documents import read_documents
from mojiang.data._keywords import read_words
from mojiang.data._mapping import map_texts
from mojiang.data.clean import Clean
from mojiang.data.pii import pii_batch


def shout(row: dict[str, Any], changes: Changes) -> tuple[str, str, str]:
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


def test_what_workers_are_sent_and_send_back_survives_pickling() -> None:
    """Steps go to other processes and changes come back, with their examples."""
    changes = Changes()
    changes.document = "a.txt"
    for n in range(5):
        changes.note("shouted", f"x{n} and more", f"X{n} and more")
    back = pickle.loads(pickle.dumps(changes))
    assert back == {"shouted": 5}
    assert back.examples == {"shouted": [("a.txt", f"x{n} and more", f"X{n} and more") for n in range(3)]}
    total = Changes()
    total.absorb(back)
    total.absorb(back)
    assert total == {"shouted": 10}
    assert len(total.examples["shouted"]) == 3
    for step in (
        partial(filtering.judge_row, filtering.Settings(filtering.Filter(data="x"), read_words(["赌博", "a b"]))),
        partial(pii_batch, pii.Settings({"ip": "redact"}, key=b"k")),
        partial(normalize.normalize_row, normalize.Settings(dates="iso")),
    ):
        assert pickle.loads(pickle.dumps(step)).args == step.args


def test_the_key_is_not_shown_with_the_settings() -> None:
    assert "secret" not in repr(pii.Settings({"ip": "pseudonym"}, key=b"secret"))


def test_an_excerpt_shows_what_differs_and_escapes_what_cannot_be_seen() -> None:
    before, after = excerpt("x" * 100 + "\u200bb" + "y" * 100, "x" * 100 + "b" + "y" * 100)
    assert before == "…" + "x" * 20 + "\\u200bb" + "y" * 19 + "…"
    assert after == "…" + "x" * 20 + "b" + "y" * 19 + "…"

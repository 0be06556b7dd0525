"""Deduplication against a Python set, with the hashes in one bucket and in many."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.data import dedup
from mojiang.data.dedup import Dedup, content_key, find_copies


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a\r\nb  \n", "a\nb", True),
        ("\n\n  x = 1\n", "  x = 1", True),
        ("  x = 1", "x = 1", False),
        ("e\u0301", "é", True),
        ("Case", "case", False),
        ("你好。", "你好", False),
    ],
)
def test_equal_is_what_a_reader_cannot_tell_apart(one: str, other: str, same: bool) -> None:
    assert (content_key(one) == content_key(other)) is same


@pytest.mark.parametrize("bucket", [2_000_000, 50])
def test_against_a_set(
    make: Callable[..., Artifact], folder: Callable[..., Path], rows: Callable[..., Any], bucket: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mojiang.data.load import Load

    monkeypatch.setattr(dedup, "_BUCKET_ENTRIES", bucket)
    chance = random.Random(7)
    texts = [f"text {chance.randrange(150)}" for _ in range(500)]
    loaded = make(Load(source=str(folder({"a.jsonl": "\n".join(f'{{"text": "{t}"}}' for t in texts)}))))
    made = make(Dedup(data=loaded.ref))
    assert [row["text"] for row in rows(made)] == list(dict.fromkeys(texts))  # the first of each, in order
    assert made.metrics["documents_dropped"] == len(texts) - len(set(texts))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40), st.integers(1, 4))
def test_copies_found_in_buckets(hashes: list[tuple[int, int]], buckets: int) -> None:
    import tempfile

    import numpy as np

    entries = np.zeros(len(hashes), dedup._ENTRY)
    for order, (high, low) in enumerate(hashes):
        entries[order] = (high, low, order, order.to_bytes(16, "big"))
    with tempfile.TemporaryDirectory() as name:
        for number in range(buckets):
            part = entries[entries["low"] % buckets == number]
            (Path(name) / f"{number:05d}.bin").write_bytes(
                part[::-1].tobytes()
            )  # the order in the file must not matter
        copies = find_copies(Path(name), buckets)
    truth = [(i, hashes.index(h)) for i, h in enumerate(hashes) if hashes.index(h) < i]
    assert [(int(c["order"]), int.from_bytes(bytes(c["id"]), "big")) for c in copies] == truth


def test_nothing_to_drop(make: Callable[..., Artifact], corpus: Callable[..., Artifact]) -> None:
    made = make(Dedup(data=corpus({"a.txt": "one text", "b.txt": "another"}).ref))
    assert made.metrics["documents_dropped"] == 0

"""Repeated passages against a dictionary of every run of characters, and against a suffix array's definition."""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.report import Report
from mojiang.data import _documents, _substring
from mojiang.data._spill import Spill
from mojiang.data._substring import Item, anchors_of, cut, in_groups, places_between, ranges_of, repeated, windows_of
from mojiang.data.dedup import Dedup


def truth(texts: list[str], length: int) -> list[str]:
    """What is left by the definition: of equal runs of `length` characters those not overlapping the first are cut."""
    first: dict[str, int] = {}
    marked: dict[int, set[int]] = defaultdict(set)
    place = 0
    for number, text in enumerate(texts):
        for at in range(len(text) - length + 1):
            before = first.setdefault(text[at : at + length], place + at)
            if place + at - before >= length:
                marked[number].update(range(at, at + length))
        place += len(text)
    return [
        "".join(char for at, char in enumerate(text) if at not in marked[number]) for number, text in enumerate(texts)
    ]


def left_of(texts: list[str], length: int, batches: int = 1) -> list[str]:
    """The same by the steps of the module, with the texts in so many batches."""
    orders = np.arange(len(texts))
    places = np.cumsum([0, *map(len, texts)])
    edges = sorted({len(texts) * number // batches for number in range(batches + 1)})
    spans = list(zip(edges[:-1], edges[1:], strict=True))

    def items(marks: np.ndarray[Any, Any]) -> list[Item]:
        return [
            Item(int(places[a]), orders[a:b], texts[a:b], marks[(marks >= places[a]) & (marks < places[b])])
            for a, b in spans
        ]

    none = np.zeros(0, np.int64)
    anchors = np.concatenate([anchors_of(length, item) for item in items(none)])
    again = np.unique(anchors["place"][in_groups(anchors["hash"])])
    windows = np.concatenate([windows_of(length, item) for item in items(again)])
    cuts = np.unique(repeated(windows, length))
    left = []
    for item in items(cuts):
        ranges = ranges_of(length, item)
        left += [cut(text, ranges.get(row, ())) for row, text in enumerate(item.texts)]
    return left


@settings(max_examples=300)
@given(st.lists(st.text(alphabet="ab好", max_size=40), min_size=1, max_size=6), st.integers(2, 9), st.integers(1, 3))
def test_few_characters_against_the_definition(texts: list[str], length: int, batches: int) -> None:
    assert left_of(texts, length, batches) == truth(texts, length)


@pytest.fixture(scope="module")
def real() -> list[str]:
    """Real pages of both languages, some with passages of others pasted into them."""
    root = Path(__file__).parents[2]
    pages = [path.read_text(encoding="utf-8") for path in sorted((root / "docs").rglob("*.md"))]
    pages += [path.read_text(encoding="utf-8") for path in sorted((root / "tests" / "fixtures" / "zh").iterdir())]
    chance = random.Random(11)
    for _ in range(60):
        source, target = chance.choice(pages), chance.randrange(len(pages))
        at, size = chance.randrange(len(source)), chance.randrange(40, 400)
        into = chance.randrange(len(pages[target]))
        pages[target] = pages[target][:into] + source[at : at + size] + pages[target][into:]
    return pages


@pytest.mark.parametrize("length", [16, 51, 100])
@pytest.mark.parametrize("block", [2**15, 3000])
def test_real_pages_against_the_definition(
    real: list[str], length: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_substring, "_BLOCK_CHARACTERS", block)
    left = left_of(real, length, batches=5)
    assert left == truth(real, length)
    assert sum(map(len, left)) < sum(map(len, real)) - 5000


def test_the_recipe_in_many_buckets(
    make: Callable[..., Artifact], corpus: Callable[..., Artifact], rows: Callable[..., Any], real: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_substring, "BUCKET_ENTRIES", 50_000)
    monkeypatch.setattr(_substring, "_SPAN_BITS", 10)
    monkeypatch.setattr(_documents, "ROW_GROUP_ROWS", 4)
    texts = [text.strip("\ufeff") for text in real]
    loaded = corpus({"a.jsonl": "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)})
    texts = [row["text"] for row in rows(loaded)]
    made = make(Dedup(data=loaded.ref, near=None, substring=60))
    assert [row["text"] for row in rows(made)] == [text for text in truth(texts, 60) if text.strip()]
    assert all(row["bytes"] == len(row["text"].encode()) for row in rows(made))
    changes = dict(Report.load(made.path).table("changes").rows)
    assert changes["characters cut"] == made.metrics["characters_cut"] > 5000
    totals = made.metrics
    assert totals["bytes_in"] == totals["bytes_kept"] + totals["bytes_dropped"] + totals["bytes_removed"]


def test_nothing_equal_is_left_after_cutting(
    make: Callable[..., Artifact], corpus: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    one = "A passage that stands in several places of this corpus, word by word. "
    other = "Something else altogether, about rivers, that is repeated just the same. "
    texts = [one + "x" * 30, other + "y" * 30, f"Dear {one} reader", f"Dear {other} reader", "Dear  reader", one]
    loaded = corpus({"a.jsonl": "\n".join(json.dumps({"text": text}) for text in texts)})
    made = make(Dedup(data=loaded.ref, near=None, substring=40))
    left = [row["text"] for row in rows(made)]
    assert left == [*texts[:2], "Dear  reader"]
    assert made.metrics["documents_dropped"] == 3


def test_a_line_of_one_character_is_not_eaten(
    make: Callable[..., Artifact], corpus: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    made = make(
        Dedup(data=corpus({"a.txt": "Title\n" + "=" * 31 + "\ntext", "b.txt": "no"}).ref, near=None, substring=16)
    )
    assert {row["text"] for row in rows(made)} == {"Title\n" + "=" * 31 + "\ntext", "no"}


@given(st.lists(st.integers(0, 200), max_size=30), st.integers(1, 4), st.integers(0, 200), st.integers(0, 60))
def test_places_come_back(places: list[int], buckets: int, first: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_substring, "_SPAN_BITS", 4)
        spill = Spill(Path(name) / "s", [np.int64] * buckets)
        array = np.array(places, np.int64)
        spill.scatter(_substring.bucket_of(array, buckets), array)
        found = places_between(spill, first, first + size).tolist()
    assert found == sorted({place for place in places if first <= place < first + size})

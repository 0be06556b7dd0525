"""Deduplication against a Python set and against brute force over all pairs, in memory and in many buckets."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadUsage, Interrupted
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data import _documents, _exact, _near, _spill
from mojiang.data._accounting import why_dropped
from mojiang.data._documents import read_shards
from mojiang.data._exact import content_key, find_copies
from mojiang.data._spill import Spill
from mojiang.data.dedup import Dedup

ROOT = Path(__file__).parents[2]
ZH = ROOT / "tests" / "fixtures" / "zh"
Load = Callable[[list[str]], Artifact]


@pytest.fixture
def texts_of(corpus: Callable[..., Artifact]) -> Load:
    """Load texts as a dataset, one document each, in order."""

    def load(texts: list[str]) -> Artifact:
        return corpus({"a.jsonl": "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)})

    return load


def drops_of(made: Artifact) -> list[dict[str, Any]]:
    return [row for batch in read_shards(sorted(made.path.glob("drops-*.parquet"))) for row in batch.to_pylist()]


# -- exact --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a\r\nb  \n", "a\nb", True),
        ("a\t\nb", "a\nb", True),
        ("a\u00a0\nb", "a\nb", False),
        ("\n\n  x = 1\n", "  x = 1", True),
        ("  x = 1", "x = 1", False),
        ("e\u0301", "é", True),
        ("Case", "case", False),
        ("你好。", "你好", False),
    ],
)
def test_equal_is_what_a_reader_cannot_tell_apart(one: str, other: str, same: bool) -> None:
    assert (content_key(one) == content_key(other)) is same


@given(st.text(alphabet="a \t\r\n\f\v\u00a0é", max_size=30))
def test_spaces_at_line_ends_are_what_the_pattern_says(text: str) -> None:
    visible = re.sub(r"[ \t\r\f\v]+$", "", text.replace("\r\n", "\n"), flags=re.MULTILINE).strip("\n")
    assert content_key(text) == content_key(visible)


@pytest.mark.parametrize("bucket", [2_000_000, 50])
@pytest.mark.parametrize("near", [None, 0.8])
def test_against_a_set(
    make: Callable[..., Artifact], texts_of: Load, rows: Callable[..., Any], bucket: int, near: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_exact, "BUCKET_ENTRIES", bucket)
    chance = random.Random(7)
    texts = [f"text {chance.randrange(150)}" for _ in range(500)]
    made = make(Dedup(data=texts_of(texts).ref, near=near))
    assert [row["text"] for row in rows(made)] == list(dict.fromkeys(texts))  # the first of each, in order
    assert made.metrics["exact_copies"] == len(texts) - len(set(texts))
    assert made.metrics["near_copies"] == 0  # "text 1" and "text 2" are short, and not the same


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40), st.integers(1, 4))
def test_copies_found_in_buckets(hashes: list[tuple[int, int]], buckets: int) -> None:
    import tempfile

    entries = np.zeros(len(hashes), _exact.ENTRY)
    for order, (high, low) in enumerate(hashes):
        entries[order] = (high, low, order, order.to_bytes(16, "big"))
    with tempfile.TemporaryDirectory() as name:
        spill = Spill(Path(name) / "spill", [_exact.ENTRY] * buckets)
        entries = entries[::-1]  # the order in the file must not matter
        spill.scatter(entries["low"].astype(np.int64) % buckets, entries)
        copies = find_copies(spill)
    truth = [(i, hashes.index(h)) for i, h in enumerate(hashes) if hashes.index(h) < i]
    assert [(int(c["order"]), int.from_bytes(bytes(c["id"]), "big")) for c in copies] == truth


def test_nothing_to_drop(make: Callable[..., Artifact], corpus: Callable[..., Artifact]) -> None:
    made = make(Dedup(data=corpus({"a.txt": "one text", "b.txt": "another"}).ref))
    assert made.metrics["documents_dropped"] == 0


# -- near ---------------------------------------------------------------------------------------------------------

_UNIT = re.compile("[\u3041-\u30ff\u3400-\u9fff]|[^\\W_\u3041-\u30ff\u3400-\u9fff]+")


def brute_sets(text: str, words: int = 2, characters: int = 3) -> set[tuple[str, ...]]:
    """Shingles by the definition, with a regular expression and tuples."""
    units = _UNIT.findall(text.lower())
    sizes = [characters if "\u3041" <= unit[0] <= "\u9fff" else words for unit in units]
    whole = {tuple(units[at : at + size]) for at, size in enumerate(sizes) if at + size <= len(units)}
    return whole or ({tuple(units)} if units else set())


def brute_pairs(sets: list[set[Any]], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair at or above the threshold; sizes that rule it out are not looked at."""
    pairs = {}
    for (i, one), (j, other) in itertools.combinations(enumerate(sets), 2):
        if min(len(one), len(other)) < threshold * max(len(one), len(other)) or not one:
            continue
        shared = len(one & other)
        if shared >= threshold * (len(one) + len(other) - shared):
            pairs[i, j] = shared / (len(one) + len(other) - shared)
    return pairs


def functions(folder: str, most: int) -> Iterator[str]:
    """Functions of the standard library: real text with real near copies."""
    for path in sorted((Path(sysconfig.get_paths()["stdlib"]) / folder).glob("*.py"))[:most]:
        source = path.read_text(encoding="utf-8", errors="replace")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def chinese() -> list[str]:
    """Passages of Chinese classics and guides."""
    pages = [*sorted(ZH.iterdir()), *sorted((ROOT / "docs" / "guides").glob("*.zh.md")), ROOT / "README.zh-CN.md"]
    text = "".join("".join(path.read_text(encoding="utf-8").split()) for path in pages)
    return [text[at : at + 20 + at % 97] for at in range(0, len(text), 90)]


def revised(texts: list[str], chance: random.Random) -> list[str]:
    """The texts with up to four words (in Chinese: characters) replaced, doubled or left out."""
    made = []
    for text in texts:
        units = re.findall(r"[\u3400-\u9fff]|\w+|\W+", text)
        for _ in range(chance.randrange(5)):
            at = chance.randrange(len(units))
            units[at] = chance.choice(["", units[at] * 2, chance.choice(units)])
        made.append("".join(units))
    return made


def unique(texts: list[str]) -> list[str]:
    return list({content_key(text): text for text in reversed(texts) if text.strip()}.values())[::-1]


@pytest.fixture(scope="module")
def real() -> list[str]:
    """About 1,300 real texts of both languages and revisions of them, without exact copies."""
    chance = random.Random(3)
    texts = unique([*functions("encodings", 90), *functions("tkinter", 6)])[:450] + chinese()
    return unique([*texts, *revised(texts, chance), *revised(texts[::2], chance)])


@pytest.mark.parametrize(("threshold", "bucket"), [(0.8, 4_000_000), (0.6, 4_000_000), (0.8, 200)])
def test_against_brute_force_over_all_pairs(
    make: Callable[..., Artifact], texts_of: Load, rows: Callable[..., Any], real: list[str], threshold: float,
    bucket: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_near, "BUCKET_ENTRIES", bucket)
    monkeypatch.setattr(_documents, "ROW_GROUP_ROWS", 300)
    loaded = texts_of(real)
    made = make(Dedup(data=loaded.ref, near=threshold))
    number = {row["id"]: at for at, row in enumerate(rows(loaded))}
    assert [row["text"] for row in rows(loaded)] == real
    sets = [brute_sets(text) for text in real]
    truth = brute_pairs(sets, threshold)
    assert len(truth) > 200
    gone = {}
    for drop in drops_of(made):
        assert drop["reason"] == "near-copy"
        similarity, like = drop["detail"].replace(",", "").split()[0:3:2]
        gone[number[drop["id"]]] = (number[like], float(similarity))
    left = [pair for pair in truth if pair[0] not in gone and pair[1] not in gone]
    assert len(left) <= 0.02 * len(truth)  # recall: of two near copies at least one goes
    wrong = [
        copy for copy, (like, similarity) in gone.items()
        if abs(truth.get((min(copy, like), max(copy, like)), 0.0) - similarity) > 0.0051
    ]  # fmt: skip
    assert wrong == []  # precision: what goes is as similar as it says to the document it names
    roots = _clusters(len(real), truth)
    assert len({roots[at] for at in range(len(real)) if at not in gone}) == len(set(roots))  # of each cluster one stays


def _clusters(count: int, pairs: Any) -> list[int]:
    root = list(range(count))
    for one, other in pairs:
        old, new = sorted((root[one], root[other]), reverse=True)
        root = [new if r == old else r for r in root]
    return root


def test_every_document_dropped_or_kept_is_found_again(
    make: Callable[..., Artifact], texts_of: Load, real: list[str], rows: Callable[..., Any]
) -> None:
    made = make(Dedup(data=texts_of([*real, *real[:50]]).ref))
    assert made.metrics["exact_copies"] == 50
    assert made.metrics["documents_in"] == len(real) + 50 == len(rows(made)) + len(drops_of(made))
    drop = next(row for row in drops_of(made) if row["reason"] == "near-copy")
    assert [fate.reason for fate in why_dropped([made], drop["id"])] == ["near-copy"]


A = "The quick brown fox jumps over the lazy dog while the sun is setting behind the old stone bridge near the river"
B = A + " again ||| ~~~ \ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"
C = A.replace("The quick", "The very quick")


@pytest.mark.parametrize(("keep", "kept"), [("first", A), ("longest", B), ("quality", C)])
def test_which_one_is_kept(
    make: Callable[..., Artifact], texts_of: Load, rows: Callable[..., Any], keep: Any, kept: str
) -> None:
    loaded = texts_of([A, B, C, "Something else entirely."])
    made = make(Dedup(data=loaded.ref, keep=keep))
    assert [row["text"] for row in rows(made)] == [kept, "Something else entirely."]
    id = next(row["id"] for row in rows(loaded) if row["text"] == kept)
    assert all(id in drop["detail"] for drop in drops_of(made))


def test_short_texts_are_never_passed_over(
    make: Callable[..., Artifact], texts_of: Load, rows: Callable[..., Any]
) -> None:
    texts = ["好", "好！", "不好", "很好", "ok", "OK.", "no", "。。。", "？"]
    made = make(Dedup(data=texts_of(texts).ref))
    assert [row["text"] for row in rows(made)] == ["好", "不好", "很好", "ok", "no", "。。。", "？"]


def test_a_chain_of_copies_keeps_one(make: Callable[..., Artifact], texts_of: Load, rows: Callable[..., Any]) -> None:
    words = [f"word{number}" for number in range(150)]
    chain = [" ".join(words[at : at + 100]) for at in range(0, 50, 5)]  # neighbours share 94 of 104 shingles
    made = make(Dedup(data=texts_of(chain).ref))
    assert [row["text"] for row in rows(made)] == chain[:1]
    assert sum("kept as" in drop["detail"] for drop in drops_of(made)) == 6  # three are like the first itself


class Stopping(LocalEngine):
    """Stops the run at an item, and counts the items it was given."""

    def __init__(self, at: int) -> None:
        super().__init__(workers=1)
        self.at, self.items = at, 0

    def map(self, function: Any, items: Any, workers: int | None = None) -> Iterator[Any]:
        for item in items:
            if self.items == self.at:
                raise Interrupted("stopped")
            self.items += 1
            yield function(item)


@pytest.mark.parametrize("at", [2, 7, 12, 16])
def test_continues_where_it_was_stopped(
    texts_of: Load, real: list[str], store: Store, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_documents, "ROW_GROUP_ROWS", 200)
    monkeypatch.setattr(_spill, "_MARK_SECONDS", 0)
    recipe = Dedup(data=texts_of([*real, *real[:100]]).ref)
    engine = Stopping(10_000)
    whole = execute(recipe, store, circumstance=Circumstance(engine=engine)).artifact
    expected, passes = drops_of(whole), engine.items
    store.remove(whole, force=True)
    with pytest.raises(Interrupted):
        execute(recipe, store, circumstance=Circumstance(engine=Stopping(at)))
    again = Stopping(10_000)
    made = execute(recipe, store, circumstance=Circumstance(engine=again)).artifact
    assert again.items == passes - at  # no batch is done twice
    assert drops_of(made) == expected


def test_settings_that_make_no_sense(store: Store) -> None:
    from mojiang.core.config import decode

    with pytest.raises(BadUsage, match="near"):
        decode(Dedup, {"data": "x", "near": 0.1}, "data.dedup")

"""data.mine end to end: limits, no pair in two splits, counts that add up, the same twice."""

from __future__ import annotations

import inspect
import textwrap
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.data._documents import SPLITS
from mojiang.data.mine import Mine, read_conversations
from mojiang.data.split import Split


@pytest.fixture
def split(make: Callable[..., Artifact], corpus: Callable[..., Artifact]) -> Artifact:
    files: dict[str, str] = {
        "textwrap.py": inspect.getsource(textwrap),
        "inspect.py": inspect.getsource(inspect),
        **{f"en{i}.md": f"# Topic {i}\n\nWhat topic {i} is about, told in a sentence or two.\n" for i in range(30)},
        **{f"zh{i}.md": f"# 主题{i}\n\n这里用一两句话说明主题{i}的内容是什么，请看下文。\n" for i in range(30)},
        **{
            f"copy{i}.md": f"# Same\n\nThe very same answer under the same heading.\n\n# Rest {i}\n\nx\n"
            for i in range(9)
        },
    }
    return make(Split(data=corpus(files).ref, min_bytes=100, test=0.2, validation=0.2))


def test_pairs_are_within_limits_and_never_in_two_splits(split: Artifact, make: Callable[..., Artifact]) -> None:
    made = make(Mine(data=split.ref, max_pairs_per_document=10, max_answer_bytes=600))
    found = {name: list(read_conversations(made.path, name)) for name in SPLITS}
    texts = Counter(
        (c["messages"][0]["content"], c["messages"][1]["content"]) for group in found.values() for c in group
    )
    assert max(texts.values()) == 1
    assert all(24 <= len(answer.encode()) <= 600 for _, answer in texts)
    assert all([m["role"] for m in c["messages"]] == ["user", "assistant"] for g in found.values() for c in g)
    assert max(Counter(c["source"] for group in found.values() for c in group).values()) <= 10
    assert {c["language"] for group in found.values() for c in group} == {"en", "zh"}
    report = Report.load(made.path)
    total = sum(map(len, found.values()))
    assert made.metrics["pairs"] == total
    assert sum(int(row[2] or 0) for row in report.table("pairs by kind and language").rows) == total
    left_out = {str(row[0]): int(row[1] or 0) for row in report.table("left out").rows}
    assert report.scalars["pairs_found"] == total + sum(left_out.values())
    assert left_out["same as another pair"] >= 7  # nine copies of one pair, at most one of which is kept
    assert left_out["enough from this document"] > 0


def test_each_pair_comes_from_a_document_of_its_split(
    split: Artifact, make: Callable[..., Artifact], rows: Callable[..., list[dict[str, Any]]]
) -> None:
    made = make(Mine(data=split.ref))
    for name in SPLITS:
        assert {c["source"] for c in read_conversations(made.path, name)} <= {row["id"] for row in rows(split, name)}


def test_mining_twice_on_one_process_or_many_gives_the_same(
    split: Artifact, make: Callable[..., Artifact], store: Store
) -> None:
    once = make(Mine(data=split.ref))
    again = Mine(data=split.ref, max_prompt_bytes=1201).execute(store)  # another fingerprint, a process pool
    for name in SPLITS:
        assert list(read_conversations(once.path, name)) == list(read_conversations(again.path, name))


def test_a_corpus_without_pairs_says_why(make: Callable[..., Artifact], corpus: Callable[..., Artifact]) -> None:
    data = corpus({f"{i}.txt": f"{i} " * 100 for i in range(20)})
    split = make(Split(data=data.ref, min_bytes=100))
    with pytest.raises(BadInput, match="no instruction pair could be mined from 20 documents"):
        make(Mine(data=split.ref))


def test_reading_what_holds_no_conversations(split: Artifact) -> None:
    with pytest.raises(BadInput, match="holds documents"):
        list(read_conversations(split.path, "train"))

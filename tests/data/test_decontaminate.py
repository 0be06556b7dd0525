"""Evaluation texts planted in a corpus by hand: found with their spans, in both languages, and nothing else."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadUsage
from mojiang.core.report import Report
from mojiang.data._documents import read_shards
from mojiang.data._overlap import Finder, build_index
from mojiang.data.decontaminate import Decontaminate
from mojiang.data.examples import Examples
from mojiang.data.load import Load

LONG = (
    "In which year did the committee decide that the old harbour bridge should be replaced by a tunnel, "
    "and how much did the tunnel cost in the end?"
)
SHORT = "Who wrote the opera about the golden hind?"
ZH = "下列哪一项最能说明作者在文章结尾处提到长江三角洲的经济发展所要表达的观点？"
FILLER = "Rivers carry sand to the sea, year after year, and nobody counts the grains that are left behind. "
ZH_FILLER = "今天的天气很好，我们一起去公园散步，看见许多人在湖边拍照，孩子们在草地上放风筝。"


@pytest.fixture
def loaded(make: Callable[..., Artifact], tmp_path: Path) -> Callable[[str, list[str]], Artifact]:
    """Texts as a dataset, one document each."""

    def load(name: str, texts: list[str]) -> Artifact:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), encoding="utf-8")
        return make(Load(source=str(path)))

    return load


def matches_of(made: Artifact) -> list[dict[str, Any]]:
    return [row for batch in read_shards(sorted(made.path.glob("matches-*.parquet"))) for row in batch.to_pylist()]


DOCUMENTS = [
    FILLER * 3,
    f"Quiz: {LONG} Answer below.",
    f"IN WHICH YEAR did the committee\ndecide, that the old harbour bridge should be replaced by a tunnel? {FILLER}",
    f"Question: who wrote the opera about the golden hind? {FILLER}",
    f"Who wrote the opera? {FILLER}",
    ZH_FILLER * 2,
    f"{ZH_FILLER}{ZH}{ZH_FILLER}",
    f"阅读题：{ZH[:30]}……",
    f"{ZH[:12]}，{ZH_FILLER}",
]


def test_what_is_found(
    make: Callable[..., Artifact], loaded: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    data, english, chinese = loaded("data", DOCUMENTS), loaded("en", [LONG, SHORT, "Why?"]), loaded("zh", [ZH])
    made = make(Decontaminate(data=data.ref, against=(english.ref, chinese.ref)))
    texts = [row["text"] for row in rows(data)]
    kept = [row["text"] for row in rows(made)]
    assert kept == [texts[number] for number in (0, 4, 5, 8)]
    found = [(row["path"].rpartition("#")[2], row["benchmark"], row["text"]) for row in matches_of(made)]
    assert [(int(path), name) for path, name, _ in found] == [
        (2, english.ref), (3, english.ref), (4, english.ref), (7, chinese.ref), (8, chinese.ref)
    ]  # fmt: skip
    said = [text for *_, text in found]
    assert said[0] == LONG.rstrip("?")
    assert said[2] == "who wrote the opera about the golden hind"
    assert said[3] == ZH.rstrip("？")
    assert said[4] == ZH[:30]
    by_path = {row["path"]: row["text"] for row in rows(data)}
    for row in matches_of(made):
        assert by_path[row["path"]][row["start"] : row["stop"]] == row["text"]
    table = {row[0]: row[1:] for row in Report.load(made.path).table("evaluation sets").rows}
    assert table == {english.ref: [2, 1, 2, 1.0, 3], chinese.ref: [1, 0, 1, 1.0, 2]}
    assert made.metrics["documents_dropped"] == 5
    assert "too short" in Report.load(made.path).findings[0].text


def test_share_is_that_of_the_words(make: Callable[..., Artifact], loaded: Callable[..., Artifact]) -> None:
    words = re.findall(r"\w+", LONG)
    data = loaded("data", [f"{' '.join(words[:count])}. {FILLER}" for count in range(10, len(words) + 1)])
    made = make(Decontaminate(data=data.ref, against=(loaded("en", [LONG]).ref,), action="report", share=0.01))
    shares = sorted(row["share"] for row in matches_of(made))
    assert shares == pytest.approx([count / len(words) for count in range(13, len(words) + 1)])
    assert made.metrics["documents_kept"] == made.metrics["documents_in"]


def test_cutting_leaves_the_rest(
    make: Callable[..., Artifact], loaded: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    data = loaded("data", [f"{FILLER}{LONG} {ZH_FILLER}{ZH}{ZH_FILLER}", LONG.rstrip("?"), FILLER])
    against = (loaded("both", [LONG, ZH]).ref,)
    made = make(Decontaminate(data=data.ref, against=against, action="cut"))
    assert [row["text"].strip() for row in rows(made)] == [f"{FILLER}? {ZH_FILLER}？{ZH_FILLER}", FILLER.strip()]
    assert made.metrics["documents_dropped"] == 1
    again = make(Decontaminate(data=made.ref, against=against))
    assert again.metrics["items_found"] == 0


def test_offsets_where_folding_changes_the_length(
    make: Callable[..., Artifact], loaded: Callable[..., Artifact], rows: Callable[..., Any]
) -> None:
    text = "İİ cafe\u0301 cafe\u0301 " + LONG.replace("decide", "decide\u0301") + " cafe\u0301"
    data, benchmark = loaded("data", [text]), loaded("en", [LONG.replace("decide", "decid\u00e9")])
    made = make(Decontaminate(data=data.ref, against=(benchmark.ref,), action="report"))
    (match,) = matches_of(made)
    assert match["text"] == text[text.index("In which") : text.index("end?") + 3]


def test_examples_count_by_their_held_out_parts_and_every_column(
    make: Callable[..., Artifact], loaded: Callable[..., Artifact], tmp_path: Path
) -> None:
    chance = random.Random(2)
    nouns = [f"{a}{b}" for a in ("river", "stone", "cloud", "lamp", "tower") for b in ("", "s", "side", "house")]
    pairs = [(" ".join(chance.sample(nouns, 15)), " ".join(chance.sample(nouns, 15))) for _ in range(60)]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"source": s, "target": t}) for s, t in pairs))
    examples = make(Examples(source=str(tmp_path / "p.jsonl"), form="pairs", test=0.3))
    data = loaded("data", [f"{FILLER} {source} {FILLER} {target}" for source, target in pairs])
    made = make(Decontaminate(data=data.ref, against=(examples.ref,)))
    held_out = sum(
        batch.num_rows
        for split in ("validation", "test")
        for batch in read_shards(sorted((examples.path / split).glob("*.parquet")))
    )
    assert made.metrics["documents_dropped"] == held_out > 10
    assert {row["item"].rpartition(":")[2] for row in matches_of(made)} == {"source", "target"}


words = st.sampled_from(["a", "b", "c", "好", "书", "café"])


@given(st.lists(words, max_size=25), st.lists(words, max_size=12))
def test_against_a_search_of_every_run(document: list[str], item: list[str]) -> None:
    """Words apart, so that every unit is one list entry: hits by the definition, with tuples."""
    import tempfile

    size = {"好": 3, "书": 3}
    runs = {
        tuple(item[at : at + size.get(unit, 2)]): at
        for at, unit in enumerate(item) if at + size.get(unit, 2) <= len(item)
    }  # fmt: skip
    covered: set[int] = set()
    for gram in runs:
        if any(tuple(document[at : at + len(gram)]) == gram for at in range(len(document))):
            for place in (at for at in range(len(item)) if tuple(item[at : at + len(gram)]) == gram):
                covered |= set(range(place, place + len(gram)))
    with tempfile.TemporaryDirectory() as name:
        index = build_index([iter([("x", " ".join(item))])], 2, 3)
        index.save(Path(name), ["bench"])
        found = Finder(Path(name)).matches(["filler", " ".join(document)])
    if runs:
        assert sum(match.share for match in found) == pytest.approx(len(covered) / len(item))
        assert {match.row for match in found} <= {1}


def test_no_evaluation_set_is_refused(make: Callable[..., Artifact], loaded: Callable[..., Artifact]) -> None:
    with pytest.raises(BadUsage, match="needs an evaluation set"):
        make(Decontaminate(data=loaded("data", [FILLER]).ref, against=()))

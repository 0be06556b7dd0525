"""The books add up for any corpus, and any document can be asked what became of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.report import Report
from mojiang.data._accounting import Accounting, Drop, why_dropped
from mojiang.data.clean import Clean
from mojiang.data.dedup import Dedup
from mojiang.data.load import Load
from mojiang.data.split import Split

Event = st.tuples(st.booleans(), st.integers(0, 10**6), st.sampled_from(["en", "zh"]), st.sampled_from(["a", "b"]))


@given(st.lists(Event, max_size=60))
def test_in_is_kept_plus_dropped_in_every_table(events: list[tuple[bool, int, str, str]]) -> None:
    with TemporaryDirectory() as folder, Accounting(Path(folder), "step") as books:
        for number, (keep, size, language, reason) in enumerate(events):
            books.saw(size)
            if keep:
                books.keep({"bytes": size, "language": language, "format": "txt", "licence": "MIT"})
            else:
                books.drop(Drop(f"{number:032x}", "p", reason, "", size))
        totals = books.finish()
        report = Report.load(Path(folder))
    kept = [size for keep, size, *_ in events if keep]
    gone = [size for keep, size, *_ in events if not keep]
    assert (totals["documents_in"], totals["bytes_in"]) == (len(events), sum(kept) + sum(gone))
    assert (totals["documents_kept"], totals["bytes_kept"]) == (len(kept), sum(kept))
    assert (totals["documents_dropped"], totals["bytes_dropped"]) == (len(gone), sum(gone))
    for table in report.tables:
        expected = gone if table.title == "dropped by reason" else kept
        assert sum(int(row[1] or 0) for row in table.rows) == len(expected)
        assert sum(int(row[2] or 0) for row in table.rows) == sum(expected)


def test_a_step_that_loses_a_document_is_caught(tmp_path: Path) -> None:
    with Accounting(tmp_path, "step") as books:
        books.saw(10)
        with pytest.raises(AssertionError, match="do not add up"):
            books.finish()


def test_many_languages_are_summed_up_in_one_more_row(tmp_path: Path) -> None:
    with Accounting(tmp_path, "step") as books:
        for i in range(100):
            books.saw(i)
            books.keep({"bytes": i, "language": f"l{i}", "format": "txt", "licence": "MIT"})
        books.finish()
    table = Report.load(tmp_path).table("kept by language")
    assert table.rows[-1] == ["60 more", 60, sum(range(60))]


def test_why_dropped_follows_a_document_through_the_chain(
    make: Callable[..., Artifact], folder: Callable[..., Path], rows: Callable[..., list[dict[str, Any]]]
) -> None:
    source = folder(
        {
            **{f"{i}.txt": f"A document with the number {i}. " * 50 for i in range(12)},
            "copy.txt": "A document with the number 3. " * 50,
            "short.txt": "hm",
            "image.png": b"\x89PNG\r\n\x1a\n",
            ".git/config": "hidden",
        }
    )
    load = make(Load(source=str(source)))
    clean = make(Clean(data=load.ref))
    dedup = make(Dedup(data=clean.ref))
    split = make(Split(data=dedup.ref))
    chain = [load, clean, dedup, split]

    def story(document: str) -> list[tuple[str, str, str]]:
        return [(fate.step.split()[0], fate.outcome, fate.reason) for fate in why_dropped(chain, document)]

    assert story("image.png")[0] == ("data.load", "dropped", "binary")
    assert story(".git/config")[0] == ("data.load", "dropped", "hidden")
    assert story("short.txt")[1] == ("data.clean", "dropped", "too-short")
    assert story("short.txt")[2] == ("data.dedup", "not seen", "")
    # "3.txt" sorts before "copy.txt", so the copy goes, and the detail names what was kept instead.
    fate = why_dropped(chain, "copy.txt")[2]
    assert (fate.outcome, fate.reason) == ("dropped", "exact-copy")
    kept = fate.detail.removeprefix("same text as ")
    assert why_dropped([dedup], kept)[0].path == "3.txt"
    final = why_dropped(chain, "3.txt")[-1]
    where = next(s for s in ("train", "validation", "test") for row in rows(split, s) if row["path"] == "3.txt")
    assert (final.outcome, final.reason) == ("kept", where)

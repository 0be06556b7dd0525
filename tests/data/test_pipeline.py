"""The books of a whole pipeline, on hostile corpora: each document has one fate, and can be asked for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mojiang
from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.recipe import Recipe
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._accounting import why_dropped
from mojiang.data._documents import SPLITS, read_documents, read_shards
from mojiang.data._rules import FineWeb, Gopher, Repetition
from mojiang.data.clean import Clean
from mojiang.data.decontaminate import Decontaminate
from mojiang.data.dedup import Dedup
from mojiang.data.filter import Filter
from mojiang.data.load import Load
from mojiang.data.mix import Mix
from mojiang.data.normalize import Normalize
from mojiang.data.pii import Pii
from mojiang.data.split import Split

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
GOOD = [p for f in ("data.md", "data-dedup.md", "data.zh.md") for p in (GUIDES / f).read_text("utf-8").split("\n\n")]
GOOD = [paragraph for paragraph in GOOD if len(paragraph.encode()) > 300 and "```" not in paragraph]
EXAM = GOOD[2]
NASTY = st.one_of(
    st.sampled_from(
        ["", " \n\t\n", "\x00", "\ufeff", "\ufffd" * 40, "\x1b[1m\x1b[0m", "a", "好", "\u202e\u200b", "-" * 99]
    ),
    st.sampled_from(
        ["ä½ å¥½ï¼Œä¸–ç•Œ " * 9, "买它吧，" * 60, "# " * 80, "</div>" * 30, '{"a": [' * 50, "e\u0301 " * 40]
    ),
    st.sampled_from(GOOD).flatmap(
        lambda text: st.sampled_from([text, text + " ", text[:-9], f"x {text} y", text[40:]])
    ),
    st.just(f"As the exam says: {EXAM}"),
    st.tuples(st.sampled_from(GOOD), st.sampled_from(GOOD)).map(lambda two: "\n\n".join(two)),
    st.lists(st.sampled_from(["me@home.org", "13812345678", "+44 20 7946 0958", "8.8.4.4"]), max_size=30).map(" ".join),
    st.text(max_size=60),
    st.text(alphabet="ab 好。\n", max_size=200),
)
RECORD = st.one_of(
    NASTY.map(lambda text: json.dumps({"text": text})),
    st.sampled_from(['{"text": 3}', '{"body": "x"}', "{", "null", "[]", '"a string"', '{"text": "\\ud800"}', "\x00"]),
)
SUFFIXES = ["csv", "html", "json", "eml", "mbox", "pdf", "docx", "parquet", "warc", "txt.gz", "jsonl.zst", "md", "py"]
CONTENT = st.one_of(NASTY.map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=80))
LINES = st.lists(RECORD, max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))
FILE = st.one_of(
    st.tuples(st.just(".txt"), CONTENT),
    st.tuples(st.just(".jsonl"), LINES),
    st.tuples(st.sampled_from([f".{suffix}" for suffix in SUFFIXES]), CONTENT),
)


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(st.lists(FILE, max_size=14), st.integers(0, 3))
def test_every_document_has_one_fate_at_every_step(files: list[tuple[str, bytes]], seed: int) -> None:
    with TemporaryDirectory() as folder:
        source, store = Path(folder) / "source", mojiang.open(Path(folder) / "workspace")
        written = _write(source, files)
        chain, other = _pipeline(store, source, Path(folder), seed)
        _check_load(chain[0], written)
        for before, after in zip(chain, chain[1:], strict=False):
            _check_step([before, other] if after.recipe == "data.mix" else [before], after)
        for id in _ids(chain[0]) + [drop["id"] for drop in _drops(chain[0])]:
            _check_story(chain, id)


def _write(source: Path, files: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    written = {f"good/{n}.md": text.encode() for n, text in enumerate(GOOD)}
    written |= {f"{number}{suffix}": content for number, (suffix, content) in enumerate(files)}
    written |= {".hidden/x.txt": b"not entered"}
    for name, content in written.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return written


def _pipeline(store: Store, source: Path, folder: Path, seed: int) -> tuple[list[Artifact], Artifact]:
    def make(recipe: Recipe) -> Artifact:
        return execute(recipe, store, seed=seed, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact

    (folder / "exam.txt").write_text(EXAM, encoding="utf-8")
    (folder / "other.txt").write_text("\n\n".join(GOOD[::-1]), encoding="utf-8")
    exam, other = make(Load(source=str(folder / "exam.txt"))), make(Load(source=str(folder / "other.txt")))
    chain = [make(Load(source=str(source)))]
    recipes: list[Any] = [
        lambda ref: Clean(data=ref, html=True, invisible=True, trailing_spaces=True),
        lambda ref: Normalize(data=ref, half_width=True, spaces="single", dates="iso", numbers="expand"),
        lambda ref: Filter(data=ref, gopher=Gopher(min_words=10), repetition=Repetition(), fineweb=FineWeb(on=False)),
        lambda ref: Pii(data=ref, max_found=8),
        lambda ref: Dedup(data=ref, near=0.6, substring=60),
        lambda ref: Decontaminate(data=ref, against=(exam.ref,), share=0.4),
        lambda ref: Mix(sources=(ref, other.ref), weights=(1.0, 1.0)),
        lambda ref: Split(data=ref, validation=0.2, test=0.2, min_bytes=1),
    ]
    for recipe in recipes:
        chain.append(make(recipe(chain[-1].ref)))
    return chain, other


def _rows(artifact: Artifact, columns: list[str]) -> list[dict[str, Any]]:
    return [row for batch in read_documents(artifact.path, columns=columns) for row in batch.to_pylist()]


def _ids(artifact: Artifact) -> list[str]:
    return [row["id"] for row in _rows(artifact, ["id"])]


def _drops(artifact: Artifact) -> list[dict[str, Any]]:
    return [row for batch in read_shards(sorted(artifact.path.glob("drops-*.parquet"))) for row in batch.to_pylist()]


def _check_books(artifact: Artifact, seen: int) -> None:
    """Manifest, report and rows say the same."""
    kept, drops, metrics = _rows(artifact, ["bytes", "text"]), _drops(artifact), artifact.metrics
    assert metrics["documents_in"] == seen == len(kept) + len(drops)
    assert (metrics["documents_kept"], metrics["documents_dropped"]) == (len(kept), len(drops))
    assert metrics["bytes_kept"] == sum(row["bytes"] for row in kept) == sum(len(row["text"].encode()) for row in kept)
    assert metrics["bytes_dropped"] == sum(drop["bytes"] for drop in drops)
    assert metrics["bytes_in"] == metrics["bytes_kept"] + metrics["bytes_dropped"] + metrics["bytes_removed"]
    report = Report.load(artifact.path)
    tables = {table.title: table for table in report.tables}
    said = {str(row[0]): row[1] for row in tables["dropped by reason"].rows} if drops else {}
    assert said == Counter(drop["reason"] for drop in drops)
    assert all(drop["reason"] for drop in drops)


def _check_load(load: Artifact, written: dict[str, bytes]) -> None:
    """Every file is there, kept or dropped, and each line of a .jsonl that is not blank."""
    fates = [row["path"] for row in _rows(load, ["path"])] + [drop["path"] for drop in _drops(load)]
    assert len(set(fates)) == len(fates)
    files = {path.partition("#")[0] for path in fates}
    assert files - {".hidden/"} <= set(written)
    for name, content in written.items():
        if name == ".hidden/x.txt":
            assert ".hidden/" in files
        elif name.endswith(".jsonl") and name in files and name not in fates:
            lines = content.decode("utf-8", "replace").split("\n")
            parts = {path.partition("#")[2].partition(".")[0] for path in fates if path.startswith(f"{name}#")}
            assert parts == {str(n) for n, line in enumerate(lines, 1) if line.strip()}
        else:
            assert name in files
    ids = _ids(load) + [drop["id"] for drop in _drops(load)]
    assert len(set(ids)) == len(ids)
    _check_books(load, len(fates))


def _check_step(parents: list[Artifact], made: Artifact) -> None:
    """Each document that came in went out once: kept, or dropped."""
    came = Counter(id for parent in parents for id in _ids(parent))
    went = Counter(_ids(made)) + Counter(drop["id"] for drop in _drops(made))
    assert went == came
    _check_books(made, came.total())


def _check_story(chain: list[Artifact], id: str) -> None:
    """Kept, kept, …, then dropped and not seen again; or kept to the end, in one split."""
    fates = why_dropped(chain, id)
    assert len(fates) == len(chain)
    outcomes = [fate.outcome for fate in fates]
    kept = outcomes.index("dropped") if "dropped" in outcomes else len(outcomes)
    assert outcomes == ["kept"] * kept + (["dropped"] + ["not seen"] * len(outcomes))[: len(outcomes) - kept]
    assert (fates[-1].reason in SPLITS) == (kept == len(chain))

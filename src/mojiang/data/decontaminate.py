"""Remove from a corpus what evaluation sets ask, and say what was found where."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import pyarrow as pa
from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadUsage
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Changes, Drop
from mojiang.data._documents import SCHEMA, ShardWriter, count_documents
from mojiang.data._mapping import Mapped, map_batches
from mojiang.data._overlap import Index, Match, build_index, finder, texts_in, united
from mojiang.data._substring import cut

if TYPE_CHECKING:
    from mojiang.core.run import Run

Action = Literal["drop", "cut", "report"]
MATCHES: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the document
        pa.field("path", pa.string(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),  # its path in the benchmark, and the column
        pa.field("share", pa.float64(), nullable=False),  # of the item that stands in the document
        pa.field("start", pa.int64(), nullable=False),  # in characters of the document
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
_SHOWN: Final = 50


class Decontaminate(Recipe):
    """Find what evaluation sets ask in a corpus, and drop the documents, cut the passages, or only report them.

    Every text of an evaluation set (each question, answer, context: every column) is an item. An item is found when
    at least `share` of its words stands in a document in runs of `words` words (`characters` characters in Chinese and
    other scripts without spaces); case, punctuation and line ends do not count. `matches-*.parquet` has every match
    with its spans, the report a summary for each evaluation set.

    When not to use: against paraphrases and translations of an evaluation set, which share no runs of words.
    Source: Brown et al. 2020 (GPT-3, appendix C: 13-grams); Touvron et al. 2023 (Llama 2, A.6: share of tokens).
    Example:
        >>> Decontaminate(data="dedup", against=("fanoutqa", "faq@2"))
        Decontaminate(data='dedup', ...)
    """

    recipe: ClassVar[str] = "data.decontaminate"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus that is trained on."""
    against: tuple[DatasetRef, ...]
    """The evaluation sets: datasets of any form (data.examples, data.fetch, data.load)."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("validation", "test")
    """What counts of an evaluation set that has been split; one that has not counts as a whole."""
    action: Action = "drop"
    """drop the document, cut the passages out of it, or only report."""
    share: float = Field(0.5, gt=0, le=1)
    """How much of an item has to stand in a document for it to be found."""
    words: int = Field(13, ge=2, le=100)
    """Length of a run in words. A shorter item of at least half the length is looked for as a whole."""
    characters: int = Field(20, ge=2, le=100)
    """Length of a run in characters, in scripts without spaces."""

    def run(self, run: Run) -> Metrics:
        """Write documents, matches, drops and the report."""
        if not self.against:
            raise BadUsage("data.decontaminate needs an evaluation set", hint="give --against REF")
        benchmarks = [artifact.ref for artifact in run.inputs("against")]
        sets = [texts_in(artifact.path, self.splits) for artifact in run.inputs("against")]
        index = build_index(sets, self.words, self.characters)
        index.save(run.scratch, benchmarks)
        with (
            Accounting(run.out, "data.decontaminate") as books,
            ShardWriter(run.out, "matches", MATCHES, size_column=None) as matches,
        ):
            summary = _Summary(index, benchmarks)
            self._search(run, books, matches, summary)
            books.refuse_nothing("is an evaluation set the corpus itself? Or raise --share, or give --action cut")
            for number, name in enumerate(benchmarks):
                if index.too_short[number]:
                    said = f"{index.too_short[number]:,} texts of {name} are too short to look for"
                    books.find("info", said)
            if not index.items:
                books.find("warning", "no evaluation set has a text to look for: nothing was compared")
            found = {"items": len(index.items), "items_found": len(summary.items), "matches": matches.rows}
            return {**books.finish(tables=summary.tables()), **found}

    def _search(self, run: Run, books: Accounting, matches: ShardWriter, summary: _Summary) -> None:
        source = run.input("data").path
        total, done = count_documents(source), 0
        step = partial(search_batch, self, run.scratch)
        with ShardWriter(run.out) as writer:
            for mapped, found in map_batches(run, step, source):
                books.saw(mapped.bytes_in, mapped.rows_in)
                books.keep_batch(mapped.kept)
                for drop in mapped.drops:
                    books.drop(drop)
                books.changes += mapped.changes
                writer.add_batch(mapped.kept)
                for row in summary.rows(found):
                    matches.add(row)
                done += mapped.rows_in
                run.progress(done, total, unit="documents", found=len(summary.items))
                run.check_stop()


Found = tuple[str, str, Match, tuple[str, ...]]


def search_batch(recipe: Decontaminate, folder: Path, batch: pa.RecordBatch) -> tuple[Mapped, list[Found]]:
    """What is kept of a batch, and the matches at or above the share: (id, path, match, what each span says)."""
    rows, look = batch.to_pylist(), finder(folder, recipe.model_dump_json())
    by_row: dict[int, list[Match]] = {}
    for match in look.matches([row["text"] for row in rows]):
        if match.share >= recipe.share:
            by_row.setdefault(match.row, []).append(match)
    kept, drops, found, changes = [], [], [], Changes()
    size = sum(row["bytes"] for row in rows)
    for number, row in enumerate(rows):
        if matches := by_row.get(number):
            found += [
                (row["id"], row["path"], match, tuple(row["text"][a:b] for a, b in match.spans)) for match in matches
            ]
            best = max(matches, key=lambda match: match.share)
            text = _rest(recipe.action, row["text"], matches)
            if not text.strip():
                said = f"{best.share:.0%} of {look.names[best.item]}"
                drops.append(Drop(row["id"], row["path"], "contaminated", said, row["bytes"]))
                continue
            if text != row["text"]:
                changes["documents cut"] += 1
                changes["characters cut"] += len(row["text"]) - len(text)
                row |= {"text": text, "bytes": len(text.encode("utf-8", "surrogatepass"))}
        kept.append(row)
    return Mapped(len(rows), size, pa.RecordBatch.from_pylist(kept, schema=SCHEMA), drops, changes), found


def _rest(action: Action, text: str, matches: list[Match]) -> str:
    """What stays of a text in which something was found."""
    if action == "cut":
        return cut(text, united(span for match in matches for span in match.spans))
    return "" if action == "drop" else text


class _Summary:
    """What was found of each evaluation set."""

    def __init__(self, index: Index, benchmarks: list[str]) -> None:
        self.index, self.benchmarks = index, benchmarks
        self.items: dict[int, float] = {}  # the largest share of each that was found
        self.documents: list[set[str]] = [set() for _ in benchmarks]
        self.shown: list[list[str | int | float | None]] = []

    def rows(self, found: list[Found]) -> list[dict[str, object]]:
        """Count the matches, and give them as rows of `MATCHES`."""
        made: list[dict[str, object]] = []
        for id, path, match, texts in found:
            item = self.index.items[match.item]
            benchmark = self.benchmarks[item.benchmark]
            self.items[match.item] = max(match.share, self.items.get(match.item, 0.0))
            self.documents[item.benchmark].add(id)
            for (start, stop), text in zip(match.spans, texts, strict=True):
                made.append({"id": id, "path": path, "benchmark": benchmark, "item": item.name, "share": match.share,
                             "start": start, "stop": stop, "text": text})  # fmt: skip
                if len(self.shown) < _SHOWN:
                    said = " ".join(text.split())
                    shown = said if len(said) <= 80 else f"{said[:79]}…"
                    self.shown.append([benchmark, item.name, path, round(match.share, 3), start, stop, shown])
        return made

    def tables(self) -> list[Table]:
        """A row for each evaluation set, and the first matches."""
        rows: list[list[str | int | float | None]] = []
        for number, name in enumerate(self.benchmarks):
            items = [at for at, item in enumerate(self.index.items) if item.benchmark == number]
            shares = [self.items[at] for at in items if at in self.items]
            part = round(len(shares) / max(1, len(items)), 4)
            rows.append(
                [name, len(items), self.index.too_short[number], len(shares), part, len(self.documents[number])]
            )
        columns = ["benchmark", "items", "too short", "found", "share found", "documents"]
        return [
            Table(title="evaluation sets", columns=columns, rows=rows),
            Table(title="matches", columns=["benchmark", "item", "document", "share", "start", "stop", "text"],
                  rows=self.shown),
        ]  # fmt: skip

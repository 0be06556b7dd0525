"""Documents as words: sentences and words of English and Chinese, stems, lemmas, stop words."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Changes, Drop
from mojiang.data._documents import SCHEMA, SPLITS, ShardWriter, count_documents, shard_exists
from mojiang.data._mapping import Mapped, map_batches
from mojiang.text._analysis import WORDS_FORMAT, Analysis, Analyzer, analyzer_of
from mojiang.text._chinese import HAN

if TYPE_CHECKING:
    from mojiang.core.run import Run

_SHOWN = 30  # words in the report's table of the commonest
_COUNTED = 200_000  # different words in memory to find them


class Words(Recipe):
    """Cut documents into sentences and words, and bring English words to their stem or lemma.

    The result is a dataset of documents again, one sentence a line and a space between words, so it is read by every
    other step, and by any tool that splits at spaces. Splits stay as they are.

    When not to use: for language models, which read text as it is (`tokenizer`).
    Source: the Penn Treebank's conventions; Porter 1980; Snowball; WordNet 3.0's morphy; stop lists of closed classes.
    Example:
        >>> Words(data="corpus", form="lemma", stop_words=False).analysis.form
        'lemma'
    """

    recipe: ClassVar[str] = "text.words"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus."""
    segmenter: ModelRef | None = None
    """A segmenter made by text.segment, for Chinese."""
    analysis: Analysis = Analysis(marks=True)
    """What becomes of the words."""

    def run(self, run: Run) -> Metrics:
        """Write documents of words for each split that there is, the drops and the report."""
        source = run.input("data").path
        analyzer, common = analyzer_of(run, self.analysis), Counter[str]()
        splits = [None] if shard_exists(source) else [s for s in SPLITS if shard_exists(source / s)]
        total, done = count_documents(source), 0
        with Accounting(run.out, "text.words") as books:
            for split in splits:
                with ShardWriter(run.out / split if split else run.out) as writer:
                    for mapped, counts in map_batches(run, partial(_cut, analyzer), source, split):
                        _enter(books, mapped)
                        writer.add_batch(mapped.kept)
                        common.update(counts)
                        if len(common) > _COUNTED:
                            common = Counter(dict(common.most_common(_COUNTED // 2)))
                        done += mapped.rows_in
                        run.progress(done, total, unit="documents")
                        run.check_stop()
            if books.changes["documents with Chinese"] and self.segmenter is None and self.analysis.chinese != "jieba":
                run.warn("Chinese is cut into characters: give a --segmenter (text.segment), or --chinese jieba")
            table = Table(
                title="commonest words", columns=["word", "count"], rows=[[w, n] for w, n in _ranked(common)[:_SHOWN]]
            )
            counted = {name: books.changes[name] for name in ("sentences", "words")}
            return books.finish(tables=[table]) | counted


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _enter(books: Accounting, mapped: Mapped) -> None:
    books.saw(mapped.bytes_in, mapped.rows_in)
    books.keep_batch(mapped.kept)
    for drop in mapped.drops:
        books.drop(drop)
    books.changes += mapped.changes


def _cut(analyzer: Analyzer, batch: pa.RecordBatch) -> tuple[Mapped, Counter[str]]:
    """One batch as words, and how often each occurs."""
    changes, counts = Changes(), Counter[str]()
    drops: list[Drop] = []
    kept: list[dict[str, Any]] = []
    size = 0
    for row in batch.to_pylist():
        size += row["bytes"]
        sentences = analyzer.sentences(row["text"], row["format"] == WORDS_FORMAT)
        if not sentences:
            drops.append(Drop(row["id"], row["path"], "no-words", "nothing is left of it", row["bytes"]))
            continue
        for sentence in sentences:
            counts.update(sentence)
        changes["sentences"] += len(sentences)
        changes["words"] += sum(map(len, sentences))
        changes["documents with Chinese"] += HAN.search(row["text"]) is not None
        text = "\n".join(map(" ".join, sentences))
        kept.append({**row, "text": text, "bytes": len(text.encode()), "format": WORDS_FORMAT})
    return Mapped(batch.num_rows, size, pa.RecordBatch.from_pylist(kept, schema=SCHEMA), drops, changes), counts

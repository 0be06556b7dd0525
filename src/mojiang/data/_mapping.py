"""Map a function from Arrow batch to Arrow batch over a corpus, on the run's engine, with row accounting.

A step is a plain picklable function `RecordBatch -> Mapped`; the engine decides where it runs (here a process pool,
elsewhere Ray), so the same step works on a laptop and on a cluster. One row group is one unit of work: a few MiB of
text, so that memory is bounded by workers × row group whatever the size of the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mojiang.data._accounting import Accounting, Drop
from mojiang.data._documents import SCHEMA, ShardWriter, count_documents, read_documents

if TYPE_CHECKING:
    from mojiang.core.run import Run


@dataclass
class Mapped:
    """What a step made of one batch: kept rows, dropped ones, and counts of what it changed."""

    rows_in: int
    bytes_in: int
    kept: pa.RecordBatch
    drops: list[Drop] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)


Step = Callable[[pa.RecordBatch], Mapped]
TextStep = Callable[[dict[str, Any], Counter[str]], tuple[str, str, str]]


def map_texts(decide: TextStep, batch: pa.RecordBatch) -> Mapped:
    """Apply a per-document function to a batch.

    `decide(row, changes)` returns (text, reason, detail): the new text, and a reason when the document is to be
    dropped. Bind it with functools.partial to get a `Step`.
    """
    changes: Counter[str] = Counter()
    drops: list[Drop] = []
    kept: list[dict[str, Any]] = []
    size = 0
    for row in batch.to_pylist():
        size += row["bytes"]
        text, reason, detail = decide(row, changes)
        if reason:
            drops.append(Drop(row["id"], row["path"], reason, detail, row["bytes"]))
            continue
        if text != row["text"]:
            changes["documents changed"] += 1
            row["text"], row["bytes"] = text, len(text.encode())
        kept.append(row)
    return Mapped(batch.num_rows, size, pa.RecordBatch.from_pylist(kept, schema=SCHEMA), drops, changes)


def map_documents(run: Run, step: Step, source: Path, books: Accounting) -> None:
    """Run a step over every document of `source`, writing what it keeps to `run.out` and the rest to the books.

    Raises:
        Interrupted: the user stopped the run.
    """
    total, done = count_documents(source), 0
    with ShardWriter(run.out) as writer:
        for mapped in run.engine.map(step, read_documents(source)):
            books.saw(mapped.bytes_in, mapped.rows_in)
            books.keep_batch(mapped.kept)
            for drop in mapped.drops:
                books.drop(drop)
            books.changes += mapped.changes
            writer.add_batch(mapped.kept)
            done += mapped.rows_in
            run.progress(done, total, unit="documents", kept=books.kept.documents)
            run.check_stop()

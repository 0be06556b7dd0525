"""Map a function from Arrow batch to Arrow batch over a corpus, on the run's engine, with row accounting.

A step is a plain picklable function `RecordBatch -> Mapped`; the engine decides where it runs (a process pool, or Ray),
so the same step works on a laptop and on a cluster. One row group is one unit of work: a few MiB of text, so that
memory is bounded by workers × row group whatever the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from mojiang.data._accounting import Accounting, Changes, Drop
from mojiang.data._documents import SCHEMA, RowGroup, ShardWriter, count_documents, row_groups
from mojiang.data._parts import Writing, in_parts
from mojiang.data._rewriting import example_shards, rewrite_examples

if TYPE_CHECKING:
    from mojiang.core.run import Run


@dataclass
class Mapped:
    """What a step made of one batch: kept rows, dropped ones, counts of changes, rows of a table beside them."""

    rows_in: int
    bytes_in: int
    kept: pa.RecordBatch
    drops: list[Drop] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    beside: list[dict[str, Any]] = field(default_factory=list)


Step = Callable[[pa.RecordBatch], Mapped]
Out = TypeVar("Out")
TextStep = Callable[[dict[str, Any], Changes], tuple[str, str, str]]


def map_texts(decide: TextStep, batch: pa.RecordBatch) -> Mapped:
    """Apply a per-document function to a batch.

    `decide(row, changes)` returns (text, reason, detail): the new text, and a reason when the document is to be
    dropped. Bind it with functools.partial to get a `Step`.
    """
    changes = Changes()
    drops: list[Drop] = []
    texts: list[str] = []
    keep = np.ones(batch.num_rows, bool)
    sizes = batch.column("bytes").to_numpy().copy()
    size = int(sizes.sum())
    for number, row in enumerate(batch.to_pylist()):
        changes.document = row["path"]
        text, reason, detail = decide(row, changes)
        if reason:
            drops.append(Drop(row["id"], row["path"], reason, detail, row["bytes"]))
            keep[number] = False
            continue
        if text != row["text"]:
            changes["documents changed"] += 1
            sizes[number] = len(text.encode())
        texts.append(text)
    # What nobody touched stays Arrow: rows made of Python objects again cost as much as a cheap step.
    kept = batch if keep.all() else batch.filter(pa.array(keep))
    if changes["documents changed"]:
        for name, values in (("text", pa.array(texts, pa.large_string())), ("bytes", pa.array(sizes[keep]))):
            place = SCHEMA.get_field_index(name)
            kept = kept.set_column(place, SCHEMA.field(place), values)
    return Mapped(batch.num_rows, size, kept, drops, changes)


def map_batches(
    run: Run, function: Callable[[pa.RecordBatch], Out], path: Path, split: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Out]:  # fmt: skip
    """What a function makes of each batch of a corpus, in order. Workers are sent places and read for themselves."""
    return run.engine.map(partial(of_group, function), row_groups(path, split, columns))


def of_group(function: Callable[[pa.RecordBatch], Out], group: RowGroup) -> Out:
    """What a function makes of a row group."""
    return function(group.read())


def _as_it_is(mapped: Mapped) -> Mapped:
    return mapped


def map_documents(
    run: Run, step: Step, source: Path, books: Accounting, beside: ShardWriter | None = None,
    after: Callable[[Mapped], Mapped] | None = None, judges: bool = True,
) -> None:  # fmt: skip
    """Run a step over every document of `source`, writing what it keeps to `run.out` and the rest to the books.

    `beside` takes the rows that a step gives beside its documents; `after` is done here to what a worker gave, where
    there is one of a thing, such as a model on a device. A step that only rewrites texts, and `judges` none, is also
    done to examples.

    Raises:
        Interrupted: the user stopped the run.
    """
    if not judges and example_shards(source):
        rewrite_examples(run, step, source, books, beside)
        return
    total, done = count_documents(source), 0
    with ShardWriter(run.out) as writer:
        for part in in_parts(run, row_groups(source), lambda group: group.bytes):
            if not part.done:
                with part.writing(books.title, beside) as writing:
                    for mapped in map(after or _as_it_is, run.engine.map(partial(of_group, step), part.units)):
                        _enter(mapped, writing)
                        done += mapped.rows_in
                        run.progress(done, total, unit="documents")
                        run.check_stop()
            part.into(books, writer, beside)
            done = books.documents.documents


def _enter(mapped: Mapped, writing: Writing) -> None:
    books = writing.books
    books.saw(mapped.bytes_in, mapped.rows_in)
    books.keep_batch(mapped.kept)
    for drop in mapped.drops:
        books.drop(drop)
    books.changes.absorb(mapped.changes)
    writing.documents.add_batch(mapped.kept)
    if writing.beside is not None:
        for row in mapped.beside:
            writing.beside.add(row)

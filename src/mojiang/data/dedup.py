"""Drop exact copies, then near copies. Memory is bounded by buckets on disk, not by the corpus."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Drop
from mojiang.data._documents import SCHEMA, ShardWriter, read_documents
from mojiang.data._exact import exact_copies
from mojiang.data._near import NEAR_COPY, Found, Keep, Near, near_copies
from mojiang.data._shingles import CHARACTERS, WORDS
from mojiang.data._substring import Repeats, cut

if TYPE_CHECKING:
    from mojiang.core.run import Run


class Dedup(Recipe):
    """Keep one of every group of documents with the same or nearly the same content, drop its copies.

    Exact first: documents are the same when they are equal after NFC, without spaces at line ends and blank lines at
    either end, differences nobody can see. Then near: documents that share at least `near` of their shingles (runs of
    words, or of characters in scripts without spaces; Jaccard similarity) are connected, and of what is connected one
    is kept. MinHash finds the candidates; each is compared exactly before anything is dropped. Short texts are never
    skipped, and a drop names the document kept instead. Last, if asked for, passages that stood in the corpus before
    are cut.

    When not to use: with `near`, on records that differ in little on purpose (forms, logs, test cases): `near: null`
    drops exact copies only.
    Source: Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better"; Broder 1997 (MinHash).
    Example:
        >>> Dedup(data="normalize", near=0.8, keep="longest")
        Dedup(data='normalize', ...)
    """

    recipe: ClassVar[str] = "data.dedup"
    version: ClassVar[int] = 2
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to deduplicate. Its order decides which copy is the first."""
    near: float | None = Field(0.7, ge=0.3, le=1)
    """Similarity (shared shingles of all shingles) from which documents are near copies; null for exact copies only."""
    keep: Keep = "first"
    """Which of near copies stays: the first, the longest, or the one of best quality (fewest odd characters and
    repeated lines, then the longest). Of exact copies it is the first."""
    error: float = Field(0.01, gt=0, le=0.5)
    """Chance of missing a pair that is exactly as similar as `near`; more similar ones are missed far more rarely."""
    words: int = Field(WORDS, ge=1, le=50)
    """Length of a shingle in words."""
    characters: int = Field(CHARACTERS, ge=1, le=50)
    """Length of a shingle in characters, in Chinese and other scripts without spaces."""

    substring: int | None = Field(None, ge=16, le=10_000)
    """Also cut passages of at least so many characters that stood in the corpus before (100 is a long sentence); the
    first stays. This changes texts, so it is off by default."""

    def run(self, run: Run) -> Metrics:
        """Find and drop copies; writes documents, drops (with the id of what is kept instead) and the report."""
        source = run.input("data").path
        copies = exact_copies(run, source)
        found = None
        if self.near is not None:
            near = Near(self.near, self.error, self.words, self.characters, self.keep)
            found = near_copies(run, source, copies["order"], near)
        near_gone = found.copies if found else np.zeros(0, NEAR_COPY)
        repeats = None
        if self.substring is not None:
            gone = np.sort(np.concatenate([copies["order"], near_gone["order"]]))
            repeats = Repeats(run, source, gone, self.substring)
        with Accounting(run.out, "data.dedup") as books:
            characters = _write(run, books, copies, near_gone, repeats)
            if repeats is not None:
                books.changes["characters cut"] += characters
            metrics = books.finish(tables=_tables(found))
            counts = {"exact_copies": len(copies), "near_copies": len(near_gone), "characters_cut": characters}
            return {**metrics, **counts}


def _reasons(
    copies: npt.NDArray[np.void], near: npt.NDArray[np.void], first: int, stop: int
) -> dict[int, tuple[str, str]]:
    """Reason and detail of each document in [first, stop) that goes, by its row from `first`."""
    found = {}
    for copy in copies[slice(*np.searchsorted(copies["order"], [first, stop]))]:
        found[int(copy["order"]) - first] = ("exact-copy", f"same text as {bytes(copy['id']).hex()}")
    for copy in near[slice(*np.searchsorted(near["order"], [first, stop]))]:
        through = "" if copy["kept"] == copy["like"] else f", kept as {bytes(copy['kept']).hex()}"
        said = f"{copy['similarity']:.2f} like {bytes(copy['like']).hex()}{through}"
        found[int(copy["order"]) - first] = ("near-copy", said)
    return found


def _write(
    run: Run, books: Accounting, copies: npt.NDArray[np.void], near: npt.NDArray[np.void], repeats: Repeats | None
) -> int:
    """Write what stays; returns how many characters were cut from it."""
    ranges = repeats.ranges() if repeats else None
    first = characters = 0
    with ShardWriter(run.out) as writer:
        for batch in read_documents(run.input("data").path):
            reasons = _reasons(copies, near, first, first + batch.num_rows)
            gone = sorted(reasons)
            keep = np.ones(batch.num_rows, bool)
            keep[gone] = False
            named = batch.select(["id", "path", "bytes"]).take(pa.array(gone, pa.int64()))
            for number, row in zip(gone, named.to_pylist(), strict=True):
                books.drop(Drop(row["id"], row["path"], *reasons[number], row["bytes"]))
            books.saw(int(batch.column("bytes").to_numpy().sum()), batch.num_rows)
            kept = batch.filter(pa.array(keep))
            if repeats is not None and ranges is not None:
                orders = first + np.flatnonzero(keep)
                kept, less = _cut(books, kept, next(ranges), np.isin(orders, repeats.equal))
                characters += less
            books.keep_batch(kept)
            writer.add_batch(kept)
            first += batch.num_rows
            run.check_stop()
    return characters


def _cut(
    books: Accounting, batch: pa.RecordBatch, ranges: dict[int, list[tuple[int, int]]], equal: npt.NDArray[np.bool_]
) -> tuple[pa.RecordBatch, int]:
    """The batch without repeated passages, and the characters cut; a document of which nothing new is left goes."""
    if not ranges:
        return batch, 0
    rows, characters = [], 0
    for number, row in enumerate(batch.to_pylist()):
        text = cut(row["text"], ranges.get(number, ()))
        if not text.strip() or equal[number]:
            said = "equal to another once it is cut" if text.strip() else "all of it stands in other documents"
            books.drop(Drop(row["id"], row["path"], "repeated-text", said, row["bytes"]))
            continue
        if number in ranges:
            characters += len(row["text"]) - len(text)
            books.changes["documents cut"] += 1
            row["text"], row["bytes"] = text, len(text.encode("utf-8", "surrogatepass"))
        rows.append(row)
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA), characters


def _tables(found: Found | None) -> list[Table]:
    """How near copies were looked for, and the sizes of their clusters."""
    if found is None:
        return []
    search: list[list[str | int | float | None]] = [
        ["bands", found.cut.bands], ["rows in a band", found.cut.rows], ["pairs compared", found.candidates],
    ]  # fmt: skip
    sizes = sorted(Counter(found.cluster_sizes.tolist()).items())
    rows: list[list[str | int | float | None]] = [[size, count] for size, count in sizes]
    return [
        Table(title="search for near copies", columns=["what", "number"], rows=search),
        Table(title="clusters of near copies", columns=["documents", "clusters"], rows=rows),
    ]

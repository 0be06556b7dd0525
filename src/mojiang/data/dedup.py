"""Drop exact copies. Memory is bounded by a bucket of hashes and one bit per document, not by the corpus."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mojiang.core.artifact import Kind
from mojiang.core.files import explained_os_errors
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.data._accounting import Accounting, Drop
from mojiang.data._documents import ShardWriter, count_documents, read_documents

if TYPE_CHECKING:
    from mojiang.core.run import Run

_BUCKET_ENTRIES: Final = 2_000_000  # 80 MB of hashes in memory at a time
# What is written to disk for each document: its content's hash, where it stands in the corpus, its id.
_ENTRY: Final = np.dtype([("high", ">u8"), ("low", ">u8"), ("order", ">u8"), ("id", "V16")])
_COPY: Final = np.dtype([("order", np.int64), ("id", "V16")])
_SPACE_AT_LINE_END: Final = re.compile(r"[ \t\r\f\v]+$", re.MULTILINE)


class Dedup(Recipe):
    """Keep the first of every group of documents with the same content, drop its copies.

    Documents are the same when they are equal after NFC, without spaces at line ends and blank lines at either end:
    differences nobody can see. What is kept is kept as it was. Works on corpora larger than memory, and is exact
    for short texts too.

    When not to use: for near copies (edited or quoted text), which need fuzzy matching after this.
    Source: Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better" (the exact-document part).
    Example:
        >>> Dedup(data="normalize")
        Dedup(data='normalize')
    """

    recipe: ClassVar[str] = "data.dedup"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to deduplicate. Its order decides which copy is the first."""

    def run(self, run: Run) -> Metrics:
        """Find and drop copies; writes documents, drops (with the id of what is kept instead) and the report."""
        source = run.input("data").path
        total = count_documents(source)
        folder = run.scratch / "hashes"
        folder.mkdir(exist_ok=True)
        buckets = total // _BUCKET_ENTRIES + 1
        _spill(run, source, folder, buckets, total)
        copies = find_copies(folder, buckets)
        with Accounting(run.out, "data.dedup") as books, ShardWriter(run.out) as writer:
            first = 0
            for batch in read_documents(source):
                low, high = np.searchsorted(copies["order"], [first, first + batch.num_rows])
                keep = np.ones(batch.num_rows, bool)
                sizes = batch.column("bytes").to_numpy()
                ids, paths = batch.column("id"), batch.column("path")
                for copy in copies[low:high]:
                    row = int(copy["order"]) - first
                    keep[row] = False
                    detail = f"same text as {bytes(copy['id']).hex()}"
                    books.drop(Drop(ids[row].as_py(), paths[row].as_py(), "exact-copy", detail, int(sizes[row])))
                kept = batch.filter(pa.array(keep))
                books.saw(int(sizes.sum()), batch.num_rows)
                books.keep_batch(kept)
                writer.add_batch(kept)
                first += batch.num_rows
                run.check_stop()
            return books.finish()


def content_key(text: str) -> bytes:
    """128-bit hash of what a reader sees of a text.

    >>> content_key("a  \\r\\nb\\n") == content_key("a\\nb"), content_key("a b") == content_key("ab")
    (True, False)
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    # Indentation at the start is content; blank lines before it are not.
    visible = _SPACE_AT_LINE_END.sub("", text.replace("\r\n", "\n")).strip("\n")
    return hashlib.sha256(visible.encode()).digest()[:16]


def hash_batch(batch: pa.RecordBatch) -> npt.NDArray[np.void]:
    """`_ENTRY` records of a batch, their order still relative to the batch."""
    entries = np.zeros(batch.num_rows, _ENTRY)
    for row, (text, id) in enumerate(zip(batch.column("text"), batch.column("id"), strict=True)):
        entries[row] = np.frombuffer(
            content_key(text.as_py()) + row.to_bytes(8, "big") + bytes.fromhex(id.as_py()), _ENTRY
        )[0]
    return entries


def _spill(run: Run, source: Path, folder: Path, buckets: int, total: int) -> None:
    """Write the hashes to disk, in buckets by hash, so that equal ones meet in the same bucket."""
    first = 0
    with explained_os_errors(f"writing hashes to {folder}"), ExitStack() as stack:
        files = [stack.enter_context(open(_bucket(folder, number), "wb")) for number in range(buckets)]
        for entries in run.engine.map(hash_batch, read_documents(source, columns=["text", "id"])):
            entries["order"] += np.uint64(first)
            first += len(entries)
            where = entries["low"].astype(np.uint64) % np.uint64(buckets)
            for number in np.unique(where):
                files[int(number)].write(entries[where == number].tobytes())
            run.progress(first, total, unit="documents")
            run.check_stop()


def _bucket(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.bin"


def find_copies(folder: Path, buckets: int) -> npt.NDArray[np.void]:
    """All documents that are not the first with their content: (order, id of the first), sorted by order."""
    found = np.concatenate([_copies_in(_bucket(folder, number)) for number in range(buckets)])
    return found[np.argsort(found["order"])]


def _copies_in(path: Path) -> npt.NDArray[np.void]:
    entries = np.fromfile(path, _ENTRY)
    high, low, order = (entries[name].astype(np.uint64) for name in ("high", "low", "order"))
    entries = entries[np.lexsort((order, low, high))]
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    starts = np.concatenate([[True], ~same]) if len(entries) else np.zeros(0, bool)
    first_of = np.maximum.accumulate(np.where(starts, np.arange(len(entries)), 0))
    copies = np.zeros(int((~starts).sum()), _COPY)
    copies["order"] = entries["order"][~starts]
    copies["id"] = entries["id"][first_of[~starts]]
    return copies

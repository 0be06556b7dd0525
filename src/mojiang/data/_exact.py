"""Which documents are exact copies: equal in everything a reader can see."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mojiang.data._documents import count_documents, row_groups
from mojiang.data._mapping import of_group
from mojiang.data._spill import Spill, spill_pass

if TYPE_CHECKING:
    from mojiang.core.run import Run

BUCKET_ENTRIES = 2_000_000  # 80 MB of hashes in memory at a time
# What is written to disk for each document: its content's hash, where it stands in the corpus, its id.
ENTRY: Final = np.dtype([("high", ">u8"), ("low", ">u8"), ("order", ">u8"), ("id", "V16")])
COPY: Final = np.dtype([("order", np.int64), ("id", "V16")])
_BEFORE_LINE_END: Final = tuple(space + "\n" for space in " \t\r\f\v")
_SPACE_AT_LINE_END: Final = re.compile(r"[ \t\r\f\v]+$", re.MULTILINE)


def content_key(text: str) -> bytes:
    """128-bit hash of what a reader sees of a text.

    >>> content_key("a  \\r\\nb\\n") == content_key("a\\nb"), content_key("a b") == content_key("ab")
    (True, False)
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    # The pattern stops at every space; looking for the few places it could match is ten times as fast.
    if text[-1:].isspace() or any(pair in text for pair in _BEFORE_LINE_END):
        text = _SPACE_AT_LINE_END.sub("", text)
    # Indentation at the start is content; blank lines before it are not.
    return hashlib.sha256(text.strip("\n").encode()).digest()[:16]


def hash_batch(batch: pa.RecordBatch) -> npt.NDArray[np.void]:
    """`ENTRY` records of a batch, their order still relative to the batch."""
    texts, ids = batch.column("text").to_pylist(), batch.column("id").to_pylist()
    packed = b"".join(
        content_key(text) + row.to_bytes(8, "big") + bytes.fromhex(id)
        for row, (text, id) in enumerate(zip(texts, ids, strict=True))
    )
    return np.frombuffer(packed, ENTRY).copy()


def hashes_of(run: Run, total: int) -> Spill:
    """Where the hashes of all documents are: a hash's bucket is its low half modulo the number of buckets."""
    return Spill(run.scratch / "hashes", [ENTRY] * (total // BUCKET_ENTRIES + 1))


def exact_copies(run: Run, source: Path) -> npt.NDArray[np.void]:
    """All documents that are not the first with their content: (order, id of the first), sorted by order."""
    total = count_documents(source)
    spill = hashes_of(run, total)
    first = sum(len(spill.read(bucket)) for bucket in range(spill.buckets)) if spill.done else 0

    def write(entries: npt.NDArray[np.void]) -> None:
        nonlocal first
        entries["order"] += np.uint64(first)
        first += len(entries)
        # Equal hashes meet in the same bucket.
        spill.scatter(entries["low"].astype(np.uint64) % np.uint64(spill.buckets), entries)

    groups = row_groups(source, columns=["text", "id"])
    spill_pass(run, spill, partial(of_group, hash_batch), groups, write, lambda group: group.rows, total)
    return find_copies(spill)


def find_copies(spill: Spill) -> npt.NDArray[np.void]:
    """The copies in all buckets."""
    found = np.concatenate([copies_in(spill.read(bucket)) for bucket in range(spill.buckets)])
    return found[np.argsort(found["order"])]


def copies_in(entries: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Of `ENTRY` records with equal hashes all but the first: (order, id of the first)."""
    high, low, order = (entries[name].astype(np.uint64) for name in ("high", "low", "order"))
    entries = entries[np.lexsort((order, low, high))]
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    starts = np.concatenate([[True], ~same]) if len(entries) else np.zeros(0, bool)
    first_of = np.maximum.accumulate(np.where(starts, np.arange(len(entries)), 0))
    copies = np.zeros(int((~starts).sum()), COPY)
    copies["order"] = entries["order"][~starts]
    copies["id"] = entries["id"][first_of[~starts]]
    return copies

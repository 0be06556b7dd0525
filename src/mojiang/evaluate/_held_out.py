"""Which documents an evaluation reads: whole ones, chosen by their id, so that every method is given the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mojiang.core.errors import BadInput
from mojiang.data._documents import read_documents


@dataclass(frozen=True)
class Document:
    """A held-out document and what slices are cut by."""

    id: str
    path: str
    language: str
    format: str
    text: str

    @property
    def data(self) -> bytes:
        """The exact bytes that every method is scored on."""
        return self.text.encode()


@dataclass(frozen=True)
class Selection:
    """Documents taken from a split, and how much of the split they are."""

    documents: list[Document]
    bytes: int
    split_documents: int
    split_bytes: int

    @property
    def complete(self) -> bool:
        """Whether the whole split was taken."""
        return self.bytes == self.split_bytes


def select_documents(path: Path, split: str, max_bytes: int) -> Selection:
    """Take whole documents of a split in the order of their ids (a hash) until `max_bytes` are reached.

    The choice depends on the documents alone: it is the same on every machine and in every run. A first document
    that is longer than the limit is cut at a character border, so there is always something to evaluate.

    Raises:
        BadInput: the split holds no text.
    """
    sizes: dict[str, int] = {}
    for batch in read_documents(path, split, columns=["id", "bytes"]):
        sizes.update(zip(batch.column("id").to_pylist(), batch.column("bytes").to_pylist(), strict=True))
    chosen: set[str] = set()
    total = 0
    for id in sorted(key for key, size in sizes.items() if size > 0):
        if total + sizes[id] > max_bytes and chosen:
            continue
        chosen.add(id)
        total += sizes[id]
    if not chosen:
        raise BadInput(
            f"the {split} split of {path} holds no text",
            hint="give data.split a larger share for it, or load more documents",
        )
    documents = sorted(_read(path, split, chosen, max_bytes), key=lambda document: document.id)
    taken = sum(len(document.data) for document in documents)
    return Selection(documents, taken, len(sizes), sum(sizes.values()))


def _read(path: Path, split: str, ids: set[str], max_bytes: int) -> Iterator[Document]:
    columns = ["id", "path", "language", "format", "text"]
    for batch in read_documents(path, split, columns=columns):
        for row in batch.to_pylist():
            if row["id"] in ids:
                yield Document(**{**row, "text": _cut(row["text"], max_bytes)})


def _cut(text: str, max_bytes: int) -> str:
    return text if len(text) <= max_bytes // 4 else text.encode()[:max_bytes].decode(errors="ignore")

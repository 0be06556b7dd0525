"""Long steps in parts: what a part wrote is whole and stays, so a stop or a kill costs no more than the part at hand.

A part is a run of the input that depends on the input alone (`PART_BYTES` of it), written to a folder of its own and
renamed when it is done. At the end the parts' shards become the step's, and their books are added up; the result is the
same whether it came in one go or in ten.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from mojiang.core.files import explained_os_errors, remove_tree
from mojiang.data._accounting import Accounting
from mojiang.data._documents import ShardWriter

if TYPE_CHECKING:
    from mojiang.core.run import Run

PART_BYTES: Final = 256 * 2**20

Unit = TypeVar("Unit")


@dataclass
class Writing:
    """Where a part's rows go while it is being done."""

    books: Accounting
    documents: ShardWriter
    beside: ShardWriter | None
    aside: Any = None
    """Whatever else the part has to remember."""


@dataclass(frozen=True)
class Part(Generic[Unit]):
    """Some units of a step's work."""

    folder: Path
    units: list[Unit]

    @property
    def done(self) -> bool:
        """Whether it was written before."""
        return self.folder.is_dir()

    @contextmanager
    def writing(self, title: str, beside: ShardWriter | None = None) -> Iterator[Writing]:
        """Writers for the part; it is done when the block ends, and begun anew if it does not."""
        new = self.folder.with_suffix(".new")
        remove_tree(new)
        with (
            Accounting(new, title) as books,
            ShardWriter(new) as documents,
            beside.elsewhere(new) if beside else nullcontext() as other,
        ):
            writing = Writing(books, documents, other)
            yield writing
        with explained_os_errors(f"writing {new}"):
            (new / "books.pickle").write_bytes(pickle.dumps((books.tallies(), writing.aside)))
            new.rename(self.folder)

    def into(self, books: Accounting, documents: ShardWriter, beside: ShardWriter | None = None) -> Any:
        """Add what the part wrote to the step's own; returns what was kept aside."""
        tallies, aside = pickle.loads((self.folder / "books.pickle").read_bytes())
        books.absorb(tallies, self.folder)
        for writer in filter(None, (documents, beside)):
            writer.adopt(self.folder)
        documents.bytes += tallies["kept"].bytes
        return aside


def in_parts(run: Run, units: Iterable[Unit], size_of: Callable[[Unit], int]) -> Iterator[Part[Unit]]:
    """The units in parts of at least `PART_BYTES`, but for the last."""
    group: list[Unit] = []
    size = number = 0
    for unit in units:
        group.append(unit)
        size += size_of(unit)
        if size >= PART_BYTES:
            yield Part(run.scratch / f"part-{number:05d}", group)
            group, size, number = [], 0, number + 1
    if group:
        yield Part(run.scratch / f"part-{number:05d}", group)

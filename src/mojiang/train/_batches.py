"""Where batches come from: sources of rows for which any step's batch can be had at any time.

There is no iterator to advance and no generator to save, so continuing a run is asking for the next step's batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import PackedRows, Rows, keyed_order


class Source(Protocol):
    """Where batches come from: any step's batch can be had at any time."""

    def batch(self, step: int) -> Rows:
        """The global batch of a step."""
        ...


@dataclass
class Shuffled:
    """Rows in a keyed random order, anew each epoch."""

    rows: PackedRows
    batch_rows: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise BadInput("there is nothing to train on", hint="look at the report of the dataset")
        self._epoch, self._order = -1, keyed_order(0, 0, 0)

    def numbers(self, step: int) -> list[int]:
        """Row numbers of a step's batch."""
        return [self._row(index) for index in range(step * self.batch_rows, (step + 1) * self.batch_rows)]

    def batch(self, step: int) -> Rows:
        """The global batch of a step."""
        return self.rows.rows(self.numbers(step))

    def _row(self, index: int) -> int:
        epoch, at = divmod(index, len(self.rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, keyed_order(len(self.rows), self.seed, epoch)
        return int(self._order[at])


@dataclass
class Mixed:
    """Rows of two sources side by side in every batch."""

    main: Source
    replay: Source

    def batch(self, step: int) -> Rows:
        """The main source's rows, then the replayed ones."""
        return Rows.stacked(self.main.batch(step), self.replay.batch(step))


def micro_batches(rows: Rows, micro_rows: int) -> Iterator[Rows]:
    """The rows of a global batch, `micro_rows` at a time."""
    for first in range(0, len(rows.tokens_BT), micro_rows):
        yield rows.part(first, first + micro_rows)

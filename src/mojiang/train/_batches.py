"""Batches, and the sources from which any step's batch can be had at any time.

There is no iterator to advance and no generator to save, so continuing a run is asking for the next step's batch.

Tensor names: B rows · T positions · N spans (row, start, stop)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import PackedRows, Rows, keyed_order

PAD_TO = 16
"""Padded lengths are multiples of this: fewer shapes to compile, and aligned rows for the matrix units."""


class Batch(Protocol):
    """Rows that a step is taken on."""

    def __len__(self) -> int:
        """Rows."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens (images: rows) that are read, padding not counted: what rates are measured in."""
        ...

    def take(self, rows: Sequence[int]) -> Self:
        """The rows of these numbers."""
        ...

    def micro(self, budget: int) -> Iterator[list[int]]:
        """Row numbers of micro-batches that cost at most `budget` each, in an order that wastes little padding."""
        ...


@dataclass(frozen=True)
class Examples:
    """Rows of named columns: arrays with one leading dimension, or lists of token arrays of different lengths.

    >>> batch = Examples({"tokens": [np.arange(5), np.arange(9)], "label": np.array([0, 1])}, tokens="tokens")
    >>> len(batch), batch.num_tokens, batch.take([1])["label"].tolist()
    (2, 14, [1])
    """

    columns: Mapping[str, Any]
    tokens: str | None = None
    """The column whose lengths cost: a micro-batch holds `budget` padded tokens of it; without it, `budget` rows."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each row: its tokens, or 1."""
        if self.tokens is None:
            return np.ones(len(self), np.int64)
        return np.array([len(row) for row in self.columns[self.tokens]], np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, or their number."""
        return int(self.lengths.sum())

    def take(self, rows: Sequence[int]) -> Examples:
        """The rows of these numbers."""

        def taken(column: Any) -> Any:
            return column[list(rows)] if isinstance(column, np.ndarray) else [column[row] for row in rows]

        return Examples({name: taken(column) for name, column in self.columns.items()}, self.tokens)

    def replace(self, **columns: Any) -> Examples:
        """The same rows with columns added or put in the place of others."""
        return Examples({**self.columns, **columns}, self.tokens)

    def micro(self, budget: int) -> Iterator[list[int]]:
        """Rows of like length together: the loss is a sum, so their order is free."""
        rows: list[int] = []
        widest = 0
        for row in np.argsort(-self.lengths, kind="stable").tolist():
            cost = max(widest, _rounded(int(self.lengths[row])) if self.tokens else 1)
            if rows and cost * (len(rows) + 1) > budget:
                yield rows
                rows, cost = [], _rounded(int(self.lengths[row])) if self.tokens else 1
            rows.append(row)
            widest = cost
        if rows:
            yield rows


def _rounded(length: int) -> int:
    return -(-length // PAD_TO) * PAD_TO


def padded(rows: Sequence[NDArray[Any]], fill: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token arrays as one tensor (B, T), filled up with `fill`, and their spans (B, 3), where the model is."""
    T = _rounded(max((len(row) for row in rows), default=1))
    tokens_BT = np.full((len(rows), T), fill, np.int64)
    spans_N3 = np.zeros((len(rows), 3), np.int64)
    for number, row in enumerate(rows):
        tokens_BT[number, : len(row)] = row
        spans_N3[number] = (number, 0, len(row))
    return torch.from_numpy(tokens_BT).to(device), torch.from_numpy(spans_N3).to(device)


class Source(Protocol):
    """Where batches come from: any step's batch can be had at any time."""

    def batch(self, step: int) -> Any:
        """The global batch of a step."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every row was seen once."""
        ...


@dataclass
class Shuffled:
    """Rows in a keyed random order, anew each epoch."""

    rows: PackedRows
    batch_rows: int
    seed: int

    def __post_init__(self) -> None:
        self._order = Order(len(self.rows), self.seed)

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every row was seen once."""
        return len(self.rows) / self.batch_rows

    def numbers(self, step: int) -> list[int]:
        """Row numbers of a step's batch."""
        return self._order.numbers(step * self.batch_rows, (step + 1) * self.batch_rows)

    def batch(self, step: int) -> Rows:
        """The global batch of a step."""
        return self.rows.rows(self.numbers(step))


class Order:
    """Endless row numbers: every epoch its own keyed permutation."""

    def __init__(self, num_rows: int, seed: int) -> None:
        if num_rows == 0:
            raise BadInput("there is nothing to train on", hint="look at the report of the dataset")
        self.num_rows, self.seed = num_rows, seed
        self._epoch, self._order = -1, keyed_order(0, 0, 0)

    def numbers(self, first: int, stop: int) -> list[int]:
        """The row numbers at places [first, stop) of the endless order."""
        return [self._row(index) for index in range(first, stop)]

    def _row(self, index: int) -> int:
        epoch, at = divmod(index, self.num_rows)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, keyed_order(self.num_rows, self.seed, epoch)
        return int(self._order[at])


@dataclass
class Drawn:
    """Examples in a keyed random order, anew each epoch; `make` turns row numbers into a batch.

    `make(rows, step)` gets the row numbers of the step's batch; what it draws at random must depend on them, the seed
    and the step only.
    """

    num_rows: int
    batch_rows: int
    seed: int
    make: Any
    """(row numbers, step) → batch."""

    def __post_init__(self) -> None:
        self._order = Order(self.num_rows, self.seed)

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every row was seen once."""
        return self.num_rows / self.batch_rows

    def batch(self, step: int) -> Any:
        """The global batch of a step."""
        numbers = self._order.numbers(step * self.batch_rows, (step + 1) * self.batch_rows)
        return self.make(numbers, step)


@dataclass
class Mixed:
    """Packed rows of two sources side by side in every batch."""

    main: Shuffled
    replay: Shuffled

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every row of the main source was seen once."""
        return self.main.steps_per_epoch

    def batch(self, step: int) -> Rows:
        """The main source's rows, then the replayed ones."""
        return Rows.stacked(self.main.batch(step), self.replay.batch(step))

"""All sequences of token shards in one shuffled order that is the same for any number of workers and any start.

A shuffle of everything would fetch a block for each sequence. So neighbouring sequences stay together as a stretch;
stretches are shuffled, a few of them make a window, and the sequences of a window are shuffled: a window is read in a
few requests, and is all that a worker holds. Where a stream is, is one number: how many sequences came before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from mojiang.core.engine import Engine
from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import Ints, Sequence, Shards, keyed_order

STRETCH_TOKENS: Final = 2**18
WINDOW_STRETCHES: Final = 16  # 4 Mi tokens: what is shuffled together, and what a worker holds


class Stream:
    """The sequences of shards, epoch after epoch, in an order that depends on the seed alone."""

    def __init__(
        self, where: Path | str, seed: int, stretch_tokens: int = STRETCH_TOKENS, window: int = WINDOW_STRETCHES
    ) -> None:
        self.where, self.seed, self.window = where, seed, window
        shards = _opened(str(where))
        if len(shards) == 0:
            raise BadInput(f"the shards in {where} hold no sequence", hint="look at the report of the dataset")
        self.num_sequences = len(shards)
        self._edges = stretches(shards, stretch_tokens)

    def windows(self, epoch: int) -> list[Ints]:
        """The numbers of the sequences of each window of an epoch, in order."""
        order = keyed_order(len(self._edges) - 1, self.seed, epoch)
        made = []
        for first in range(0, len(order), self.window):
            parts = [np.arange(self._edges[n], self._edges[n + 1]) for n in order[first : first + self.window]]
            numbers = np.concatenate(parts)
            made.append(numbers[keyed_order(len(numbers), self.seed + 1 + first, epoch)])
        return made

    def numbers(self, start: int = 0) -> Iterator[Ints]:
        """The windows from place `start` of the endless order; of the first, what is left of it."""
        epoch, skip = divmod(start, self.num_sequences)
        while True:
            for numbers in self.windows(epoch):
                if skip < len(numbers):
                    yield numbers[skip:]
                skip = max(0, skip - len(numbers))
            epoch += 1

    def sequences(self, engine: Engine, start: int = 0, epochs: int | None = None) -> Iterator[Sequence]:
        """The sequences from place `start` to the end of `epochs` (None: endlessly), read by the engine's workers.

        To go on after a stop, give the number of sequences that were used.
        """
        stop = None if epochs is None else epochs * self.num_sequences
        windows = self.numbers(start)
        if stop is not None:
            windows = _until(windows, stop - start)
        yield from chain.from_iterable(engine.map(partial(read_window, str(self.where)), windows))


def _until(windows: Iterator[Ints], count: int) -> Iterator[Ints]:
    while count > 0:
        numbers = next(windows)
        yield numbers[:count]
        count -= len(numbers)


def stretches(shards: Shards, stretch_tokens: int) -> Ints:
    """Where neighbouring sequences of about so many tokens begin; none goes from one shard into the next."""
    edges = [0]
    first = 0
    for shard in shards.shards:
        stop = first + shard["sequences"]
        filled = np.cumsum(shards.lengths[first:stop]) // stretch_tokens
        edges += (first + 1 + np.flatnonzero(np.diff(filled))).tolist()
        edges.append(stop)
        first = stop
    return np.array(sorted(set(edges)), np.int64)


def read_window(where: str, numbers: Ints) -> list[Sequence]:
    """The sequences of these numbers, read in the order they are stored and given in the order asked for."""
    shards = _opened(where)
    found = {}
    for number in np.sort(numbers).tolist():
        tokens, trained = shards.sequence(number)
        whole = None if trained.all() else trained
        found[number] = Sequence(np.array(tokens), int(shards.bytes_of[number]), whole)
    return [found[number] for number in numbers.tolist()]


@lru_cache(maxsize=4)
def _opened(where: str) -> Shards:
    """Shards are opened once in each worker."""
    return Shards(where)

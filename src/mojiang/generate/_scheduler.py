"""Who runs: a bounded queue in front of a fixed number of slots.

Pure bookkeeping without tensors, so that it can be tested on its own. A sequence goes

    waiting → prefilling → decoding → finished

and keeps one slot from admission to the end. Admission is first come, first served, into the lowest free slot (the
decode width is the highest slot in use, so low slots are cheap). A step prefills at most one chunk of one sequence and
decodes all that are ready: a long prompt delays the others by one chunk at a time, never by its whole length.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator


class Sequence:
    """Progress of one request: `cached` of its `prompt` tokens are in the cache, `output` were generated."""

    def __init__(self, key: int, prompt: tuple[int, ...], max_tokens: int) -> None:
        self.key, self.prompt, self.max_tokens = key, prompt, max_tokens
        self.output: list[int] = []
        self.cached = 0
        self.slot: int | None = None

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt is in the cache, so that the sequence decodes."""
        return self.cached == len(self.prompt)

    @property
    def position(self) -> int:
        """Position of the newest token, which the next decode step enters into the cache."""
        return len(self.prompt) + len(self.output) - 1


class Scheduler:
    """Queue and slots. Not thread-safe: it belongs to the engine thread."""

    def __init__(self, slots: int, chunk: int) -> None:
        self.chunk = chunk
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}  # in order of admission
        self._free = list(range(slots))
        heapq.heapify(self._free)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def admit(self) -> Iterator[Sequence]:
        """Move waiting sequences into free slots; yields those that moved."""
        while self.waiting and self._free:
            sequence = self.waiting.popleft()
            sequence.slot = heapq.heappop(self._free)
            self.running[sequence.key] = sequence
            yield sequence

    def next_chunk(self) -> tuple[Sequence, list[int]] | None:
        """The oldest sequence that is not prefilled, and the prompt tokens to enter now.

        Chunk borders are multiples of `chunk`: they depend on the prompt alone, never on who else is there.
        """
        for sequence in self.running.values():
            if not sequence.prefilled:
                return sequence, list(sequence.prompt[sequence.cached : sequence.cached + self.chunk])
        return None

    def decoding(self) -> list[Sequence]:
        """Sequences that take one token in this step."""
        return [s for s in self.running.values() if s.prefilled and s.output]

    def remove(self, key: int) -> Sequence | None:
        """Finish or cancel, in whatever state; the slot is free at once. None if it is not here (any more)."""
        sequence = self.running.pop(key, None)
        if sequence is not None and sequence.slot is not None:
            heapq.heappush(self._free, sequence.slot)
            sequence.slot = None
            return sequence
        for waiting in self.waiting:
            if waiting.key == key:
                self.waiting.remove(waiting)
                return waiting
        return None

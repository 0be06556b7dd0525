from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mojiang.generate._scheduler import Scheduler, Sequence

SLOTS, CHUNK = 3, 4


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of arrivals, steps and removals keeps slots exclusive, arrivals in order and nobody lost."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, CHUNK)
        self.alive: dict[int, Sequence] = {}
        self.arrived = 0
        self.admitted: list[int] = []

    @rule(length=st.integers(1, 11))
    def arrive(self, length: int) -> None:
        sequence = Sequence(self.arrived, tuple(range(length)), 5)
        self.alive[self.arrived] = sequence
        self.arrived += 1
        self.scheduler.add(sequence)

    @rule()
    def step(self) -> None:
        free = SLOTS - len(self.scheduler.running)
        before = len(self.scheduler.waiting)
        moved = [s.key for s in self.scheduler.admit()]
        assert len(moved) == min(free, before)
        self.admitted += moved
        for sequence in self.scheduler.decoding():
            sequence.output.append(0)
        chunk = self.scheduler.next_chunk()
        if chunk is not None:
            sequence, tokens = chunk
            assert sequence.cached % CHUNK == 0
            assert tokens == list(range(sequence.cached, min(sequence.cached + CHUNK, len(sequence.prompt))))
            sequence.cached += len(tokens)
            if sequence.prefilled:
                sequence.output.append(0)

    @rule(key=st.integers(0, 30))
    def remove(self, key: int) -> None:
        assert self.scheduler.remove(key) is self.alive.pop(key, None)

    @invariant()
    def consistent(self) -> None:
        slots = [s.slot for s in self.scheduler.running.values()]
        assert len(set(slots)) == len(slots) <= SLOTS
        assert None not in slots
        assert {s.key for s in self.scheduler.waiting} | set(self.scheduler.running) == set(self.alive)
        assert self.admitted == sorted(self.admitted)
        assert self.scheduler.idle == (not self.alive)


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_scheduler = SchedulerMachine.TestCase

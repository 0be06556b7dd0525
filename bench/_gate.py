"""The worker's half of a benchmark's protocol; imports nothing, so that it runs in any peer's environment.

    parent → worker   one line of JSON: the work
    worker → parent   {"ready": …}                         set up, before the first step
    parent → worker   go
    worker → parent   {"step": 4, "tokens": 8192, …}       at every stop; then it waits for the next `go`
    worker → parent   {"finished": …}                      what there is to say at the end

Sides of a comparison take turns, a segment each: a slow minute of the machine hits all of them, and starting and
compiling is paid once. The clock is the parent's, from `go` to the answer, so that it is the same for all.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

Facts = dict[str, Any]


def stops_of(num_steps: int, warmup: int, repeats: int) -> list[int]:
    """Numbers of steps after which a side stops: a warm-up, then segments as equal as may be.

    >>> stops_of(12, warmup=2, repeats=5)
    [0, 2, 4, 6, 8, 10, 12]
    """
    if num_steps < warmup + repeats:
        raise ValueError(f"{num_steps} steps are too few for a warm-up of {warmup} and {repeats} segments")
    return [0, *(warmup + (num_steps - warmup) * n // repeats for n in range(repeats + 1))]


class Gate:
    """Where a worker waits for its turn."""

    def __init__(self, work: Facts, out: TextIO) -> None:
        self.work, self.out = work, out
        self.stops: list[int] = []
        self.tokens_of_step: Sequence[int] = ()
        self.losses: list[float] = []
        self.synchronise: Callable[[], None] = lambda: None
        """On a GPU: wait until everything that was launched is done."""
        self._last = -1

    def plan(self, tokens_of_step: Sequence[int]) -> None:
        """Say how many useful tokens each step takes in; their number is that of the steps."""
        self.tokens_of_step = tokens_of_step
        self.stops = stops_of(len(tokens_of_step), self.work["warmup"], self.work["repeats"])

    def at(self, step: int) -> None:
        """Call with the number of steps done, before each step and after the last: reports and waits at a stop.

        Calling it again at the same stop does nothing.
        """
        if step not in self.stops or step <= self._last:
            return
        self.synchronise()
        if step == 0:
            self.say(ready=True)
        else:
            tokens = int(sum(self.tokens_of_step[self._last : step]))
            self.say(step=step, steps=step - self._last, tokens=tokens, losses=self.losses, peak_bytes=peak_bytes())
        self._last, self.losses = step, []
        self.wait()  # after the last one too: what a side does at its end must not disturb another's last segment

    def wait(self) -> None:
        """Until the parent says go; a parent that is gone ends the worker."""
        if sys.stdin.readline().strip() != "go":
            raise SystemExit(0)

    def say(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self.out, flush=True)


def peak_bytes() -> int:
    """Most memory this process ever held: on the GPU where there is one in use, else resident on the host."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    # Not getrusage: its figure survives exec, so that a worker would start with its parent's peak.
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def versions(*names: str) -> dict[str, str]:
    """Installed versions of Python and of these distributions."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def serve(tasks: dict[str, Callable[[Facts, Gate], Facts]], *packages: str) -> None:
    """Do the work that comes on standard input, and say on standard output how it went."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the lines of the protocol
    work = json.loads(sys.stdin.readline())
    if "torch" in packages:
        import torch

        torch.set_num_threads(work["threads"])
    gate = Gate(work, out)
    facts = tasks[work["task"]](work, gate)
    gate.say(finished=True, peak_bytes=peak_bytes(), versions=versions(*packages), **facts)

"""Where data work runs: a step is a function from item to item, and the engine spreads it over processes."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import Connection
from typing import Protocol, TypeVar

from mojiang.core.errors import RunFailed

In = TypeVar("In")
Out = TypeVar("Out")


class Engine(Protocol):
    """Anything that can map a picklable function over items, in order."""

    def map(self, function: Callable[[In], Out], items: Iterable[In], workers: int | None = None) -> Iterator[Out]:
        """Results in the order of the items; only a few items are in memory at a time."""
        ...

    def rest(self) -> None:
        """Let go of what workers hold; the next work starts them again."""
        ...


def cpu_count() -> int:
    """Cores this process may use (a container's limit counts, hyper-threads do too)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """Threads for numerical work: all cores this process may use, or fewer where `OMP_NUM_THREADS` says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(cpu_count(), int(asked)) if asked.isdigit() and int(asked) > 0 else cpu_count()


class LocalEngine:
    """A process pool on this machine, started when first needed.

    >>> list(LocalEngine(workers=1).map(len, ["a", "bb"]))
    [1, 2]
    """

    # Enough to keep every worker busy while results are consumed, little enough to bound memory.
    IN_FLIGHT_PER_WORKER = 3

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cpu_count()
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def map(self, function: Callable[[In], Out], items: Iterable[In], workers: int | None = None) -> Iterator[Out]:
        """Results in order; inline when one worker or one item is all there is."""
        workers = min(workers or self.workers, self.workers)
        iterator = iter(items)
        head = list(islice(iterator, 2))
        if workers == 1 or len(head) < 2:
            yield from map(function, chain(head, iterator))
            return
        pool = self._start()
        pending: collections.deque[Future[Out]] = collections.deque()
        try:
            for item in chain(head, iterator):
                pending.append(pool.submit(function, item))
                if len(pending) >= workers * self.IN_FLIGHT_PER_WORKER:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            self._pool = None
            raise RunFailed(
                "a worker process died (most often: out of memory, or a script that starts again in each worker)",
                hint="lower --workers or close other programs; in a script, begin under `if __name__ == '__main__':`",
            ) from error
        finally:
            for future in pending:
                future.cancel()

    def rest(self) -> None:
        """End the workers, and with them what they remember: tokenizers, tables, dictionaries."""
        self.close()

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # forkserver: workers start from a clean process, so no thread or lock of ours is copied half-way.
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            context = multiprocessing.get_context(method)
            reader, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_begin_worker, initargs=(reader,)
            )
        return self._pool


def _begin_worker(lifeline: Connection) -> None:
    """Ctrl-C reaches the whole process group, and only the parent may answer it; without the parent the worker ends.

    The lifeline is a pipe whose other end only the parent holds: a kill closes it. (The queues do not close, as each
    worker holds both ends of them, and the fork server lives as long as its workers.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=watch, name="mojiang-lifeline", daemon=True).start()

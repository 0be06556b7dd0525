"""Data work on a Ray cluster: the same steps, spread by Ray Data over the machines that RAY_ADDRESS names."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from mojiang.core.errors import MojiangError, RunFailed, Unavailable

In = TypeVar("In")
Out = TypeVar("Out")


class RayEngine:
    """Maps with Ray Data, on the cluster that RAY_ADDRESS names, or on one started on this machine.

    Results come in the order of the items, each once: a task whose worker or machine dies is done again elsewhere.
    Workers read and write the workspace, which must be on storage that all machines share.

    Raises:
        Unavailable: Ray is not installed, or the cluster does not answer.
    """

    # What is handed to Ray at a time. Most items only name rows that the worker reads, so this is nearly always all.
    WINDOW_ITEMS: Final = 4096
    WINDOW_BYTES: Final = 256 * 2**20

    def __init__(self, workers: int | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise Unavailable("Ray is not installed", hint="pip install 'mojiang[ray]', or use --engine local")
        self.workers = workers

    def map(self, function: Callable[[In], Out], items: Iterable[In], workers: int | None = None) -> Iterator[Out]:
        """Results in the order of the items."""
        self._connect()
        for window in windows(map(pickle.dumps, items), self.WINDOW_ITEMS, self.WINDOW_BYTES):
            yield from self._map_window(function, window, workers or self.workers)

    def rest(self) -> None:
        """Nothing to do: a worker of Ray's ends when it has been idle for a while."""

    def _map_window(self, function: Callable[[In], Out], window: list[bytes], workers: int | None) -> Iterator[Out]:
        import ray
        from ray.exceptions import RayError

        def apply(row: dict[str, Any]) -> dict[str, Any]:
            return {"made": pickle.dumps(function(pickle.loads(row["item"])), protocol=5)}

        try:
            dataset = ray.data.from_items([{"item": item} for item in window], override_num_blocks=len(window))
            pool = ray.data.TaskPoolStrategy(size=workers)
            for row in dataset.map(apply, compute=pool).iter_rows():
                yield pickle.loads(row["made"])
        except RayError as error:
            raise _cause_of(error) from error

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        # Ray takes over SIGTERM, which ends a run at its next safe point here.
        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM) if main else None
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, ValueError) as error:
            raise Unavailable(
                f"the Ray cluster cannot be reached: {error}",
                hint="check RAY_ADDRESS and `ray status`; without RAY_ADDRESS a cluster is started on this machine",
            ) from error
        finally:
            if main:
                signal.signal(signal.SIGTERM, handler)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns of its own progress bars being off
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.raise_original_map_exception = True


def windows(items: Iterable[bytes], most: int, most_bytes: int) -> Iterator[list[bytes]]:
    """Items in lists of at most so many, and of about so many bytes.

    >>> [len(window) for window in windows([b"ab", b"c", b"d"], most=2, most_bytes=2)]
    [1, 2]
    """
    window: list[bytes] = []
    size = 0
    for item in items:
        window.append(item)
        size += len(item)
        if len(window) >= most or size >= most_bytes:
            yield window
            window, size = [], 0
    if window:
        yield window


def ours_behind(error: BaseException) -> MojiangError | None:
    """The error of ours that one of Ray's carries, if any."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, MojiangError):
        seen = getattr(seen, "cause", None) or seen.__cause__
    return seen


def _cause_of(error: BaseException) -> MojiangError:
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    said = RunFailed(f"Ray could not finish: {last}", hint="look at the cluster (`ray status`) and at its logs")
    return ours_behind(error) or said

"""The process pool: ordered, bounded, honest about a dead worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mojiang.core.engine import LocalEngine, cpu_count, thread_count
from mojiang.core.errors import RunFailed


def test_results_keep_the_order() -> None:
    engine = LocalEngine(workers=2)
    assert list(engine.map(abs, range(-50, 50))) == [abs(x) for x in range(-50, 50)]
    assert list(engine.map(abs, [])) == []
    engine.close()


def test_work_happens_in_other_processes() -> None:
    engine = LocalEngine(workers=2)
    pids = set(engine.map(_pid, range(8)))
    assert os.getpid() not in pids
    engine.close()


def _pid(_: int) -> int:
    return os.getpid()


def test_only_a_few_items_are_in_flight() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            yield item

    engine = LocalEngine(workers=2)
    results = engine.map(abs, items())
    next(results)
    time.sleep(0.3)
    assert taken <= 2 * engine.IN_FLIGHT_PER_WORKER + 2
    results.close()  # type: ignore[attr-defined]
    engine.close()


def test_a_dead_worker_is_an_error_and_the_engine_recovers() -> None:
    engine = LocalEngine(workers=2)
    with pytest.raises(RunFailed, match="worker process died"):
        list(engine.map(os._exit, [1, 1, 1]))
    assert list(engine.map(abs, [-1, -2, -3])) == [1, 2, 3]
    engine.close()


def test_an_exception_in_a_worker_comes_back() -> None:
    engine = LocalEngine(workers=2)
    with pytest.raises(ValueError, match="invalid literal"):
        list(engine.map(int, ["1", "2", "x"]))
    engine.close()


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom mojiang.core.engine import LocalEngine\n"
        "def pid(_): return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    engine = LocalEngine(2)\n"
        "    print(*set(engine.map(pid, range(8))), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers
    assert all(psutil.pid_exists(worker) for worker in workers)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_cores() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("1,2", 1), ("100000", None), ("", None), ("many", None)])
def test_threads_are_the_cores_or_what_openmp_was_told(
    asked: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert thread_count() == (threads or cpu_count())

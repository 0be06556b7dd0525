"""Ray Data as the engine: a cluster of two nodes on this machine, whose workers and nodes die while they work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mojiang
from mojiang.core.cluster import RayEngine, windows
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput, Unavailable
from mojiang.core.run import Circumstance, execute
from mojiang.data.clean import Clean
from mojiang.data.dedup import Dedup
from mojiang.data.load import Load
from mojiang.data.normalize import Normalize

ray = pytest.importorskip("ray", reason="ray is not installed")
# Ray Data warns of what Ray itself still does.
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster of a head and a second node, one processor each, and that second node."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()
    os.environ.pop("RAY_ADDRESS") if before is None else os.environ.update(RAY_ADDRESS=before)


def test_results_keep_the_order_and_items_may_be_many(nodes: Any) -> None:
    def mine(signum: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        assert list(RayEngine().map(abs, range(-20, 20))) == [abs(x) for x in range(-20, 20)]
        assert list(RayEngine().map(abs, [])) == []
        assert signal.getsignal(signal.SIGTERM) is mine  # connecting to Ray would take it
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_of_ours_comes_back_as_it_is(nodes: Any) -> None:
    with pytest.raises(BadInput, match="item 3 is bad") as caught:
        list(RayEngine().map(_fails_at_3, range(6)))
    assert caught.value.hint == "leave it out"


def _fails_at_3(item: int) -> int:
    if item == 3:
        raise BadInput("item 3 is bad", hint="leave it out")
    return item


def _square(folder: Path, item: int) -> int:
    """Says in a file who works on the item, and takes a while."""
    with open(folder / f"{item}.pids", "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.2)
    return item * item


def test_a_killed_worker_loses_and_repeats_nothing(nodes: Any, tmp_path: Path) -> None:
    """Two workers, one of them killed with -9 in the middle of an item."""
    killed = []

    def kill() -> None:
        mark = tmp_path / "5.pids"
        while not mark.exists() or not mark.read_text().strip():
            time.sleep(0.01)
        killed.append(int(mark.read_text().split()[0]))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert list(RayEngine().map(partial(_square, tmp_path), range(20))) == [n * n for n in range(20)]
    thread.join()
    tried = (tmp_path / "5.pids").read_text().split()
    assert len(tried) > 1
    assert int(tried[-1]) != killed[0]


def test_the_same_steps_give_the_same_bytes(nodes: Any, tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    for number in range(60):
        words = " ".join(f"word{number * 7 % 13} and 第{number}行，中文也在这里。" for _ in range(60))
        (source / f"{number % 50}-{number}.txt").write_text(f"{words}\nmail me: someone{number}@example.org\n")
    files = {}
    for name, engine in (("local", LocalEngine(workers=1)), ("ray", RayEngine())):
        store = mojiang.open(tmp_path / name)
        for step in (Load(source=str(source)), Clean(data="load"), Normalize(data="clean"), Dedup(data="normalize")):
            execute(step, store, circumstance=Circumstance(engine=engine))
        files[name] = {a.ref: a.manifest.files for a in store.artifacts()}
    assert files["local"] == files["ray"]


def test_a_node_that_goes_takes_nothing_with_it(nodes: Any, tmp_path: Path) -> None:
    """Last in this file: the second node is gone for good."""
    cluster, second = nodes

    def remove() -> None:
        while len(list(tmp_path.glob("*.pids"))) < 6:
            time.sleep(0.01)
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    assert list(RayEngine().map(partial(_square, tmp_path), range(24))) == [n * n for n in range(24)]
    thread.join()


def test_windows_hold_every_item_once() -> None:
    items = [bytes(n % 5) for n in range(100)]
    made = list(windows(items, most=7, most_bytes=9))
    assert [item for window in made for item in window] == items
    assert all(len(window) <= 7 and sum(map(len, window[:-1])) < 9 for window in made)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="not installed") as caught:
        RayEngine()
    assert "mojiang[ray]" in caught.value.hint

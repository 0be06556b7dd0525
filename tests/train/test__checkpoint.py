from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from mojiang.core.errors import Unavailable
from mojiang.core.files import sha256_file
from mojiang.train import _checkpoint
from mojiang.train._checkpoint import KEEP, Checkpointer, load_checkpoint, save_checkpoint


def state(step: int) -> dict[str, Any]:
    return {"step": step, "parts": [{"w": torch.full((3,), float(step))}, (torch.tensor(step), "text")]}


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("*.pt"))


def test_the_newest_intact_checkpoint_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.full((3,), float(step))})
    assert len(list(tmp_path.glob("*.pt"))) == KEEP
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 4
    assert state["w"].tolist() == [4, 4, 4]


def test_a_torn_or_unsealed_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step})
    newest = tmp_path / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    (tmp_path / "step-00000003.pt").write_bytes(b"killed before the seal")
    (tmp_path / "step-00000004.json").write_text("{")
    (tmp_path / "step-00000005.json").write_text('"a text"')
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_nothing_to_load_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    assert Checkpointer(tmp_path / "none").load_best() is None


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, {"w": torch.randn(100_000)})
    assert sha256_file(tmp_path / "step-00000007.pt") in (tmp_path / "step-00000007.json").read_text()


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path, limit=2)
    for step in range(1, 9):
        checkpoints.save(step, state(step), best=step in (2, 4))
    best, newest = checkpoints.load_best(), checkpoints.load_newest()
    assert best is not None
    assert newest is not None
    assert (best["step"], newest["step"]) == (4, 8)
    assert steps(tmp_path) == [4, 7, 8]
    checkpoints.close()


def test_a_state_is_what_it_was_when_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on, changing tensors in place, while the disk is slow; tied weights are written once."""
    slow = threading.Event()
    write = _checkpoint._write

    def waiting(path: Path, value: dict[str, Any]) -> str:
        assert slow.wait(20)
        return write(path, value)

    monkeypatch.setattr(_checkpoint, "_write", waiting)
    weight = torch.arange(50_000.0)
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, {"a": weight, "b": weight, "n": 1})
    weight.zero_()
    slow.set()
    found = checkpoints.load_newest()
    assert found is not None
    assert torch.equal(found["a"], torch.arange(50_000.0))
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert (tmp_path / "step-00000001.pt").stat().st_size < 250_000


def test_the_memory_of_copies_is_used_again(tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state(1))
    first = {path: tensor.data_ptr() for path, tensor in checkpoints._copies.items()}
    checkpoints.save(2, state(2))
    assert {path: tensor.data_ptr() for path, tensor in checkpoints._copies.items()} == first
    grown = {"step": 3, "parts": [{"w": torch.ones(5)}]}  # another shape in the same place
    checkpoints.save(3, grown)
    found = checkpoints.load_newest()
    assert found is not None
    assert found["parts"][0]["w"].tolist() == [1.0] * 5
    checkpoints.close()


def test_two_writes_are_never_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, most = [], []
    write = _checkpoint._write

    def counting(path: Path, value: dict[str, Any]) -> str:
        busy.append(path)
        most.append(len(busy))
        digest = write(path, value)
        busy.remove(path)
        return digest

    monkeypatch.setattr(_checkpoint, "_write", counting)
    checkpoints = Checkpointer(tmp_path, limit=20)
    for step in range(12):
        checkpoints.save(step, state(step))
    checkpoints.close()
    assert most == [1] * 12
    assert steps(tmp_path) == list(range(12))
    assert checkpoints.seconds > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_full_disk_is_said_at_the_next_save_and_costs_no_older_checkpoint(tmp_path: Path, size: int) -> None:
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state(1))
    checkpoints.wait()
    (tmp_path / ".step-00000002.pt.tmp").symlink_to("/dev/full")
    checkpoints.save(2, {"w": torch.ones(size)})
    with pytest.raises(Unavailable, match="disk is full while writing the checkpoint of step 2") as caught:
        checkpoints.save(3, state(3))
    assert "free some space" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001.pt", "step-00000001.json"}
    checkpoints.save(4, state(4))  # after which it goes on
    checkpoints.close()
    assert steps(tmp_path) == [1, 4]


def test_a_failed_last_write_is_said_when_closing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    checkpoints = Checkpointer(tmp_path / "file")
    checkpoints.save(1, state(1))
    with pytest.raises(OSError, match="file"):
        checkpoints.close()
    checkpoints.close()


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    class Second(_checkpoint.World):
        rank = 1
        asked = 0

        def whole(self, value: Any) -> Any:
            self.asked += 1
            return value

    world = Second()
    checkpoints = Checkpointer(tmp_path, world)
    checkpoints.save(1, state(1))
    checkpoints.close()
    assert world.asked == 1  # gathering slices takes all ranks
    assert list(tmp_path.iterdir()) == []


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from mojiang.train._checkpoint import Checkpointer, load_checkpoint

folder, moments = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
newest = 0
for attempt in range(15):
    child = os.fork()
    if child == 0:
        checkpoints = Checkpointer(folder)
        for step in range(newest + 1, newest + 100_000):
            checkpoints.save(step, {"step": step, "w": torch.full((30_000,), step)}, best=step % 7 == 0)
    while not any(int(path.stem[5:]) > newest for path in folder.glob("step-*.json")):
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = load_checkpoint(folder)
    assert state["step"] > newest
    assert bool((state["w"] == state["step"]).all())
    best = load_checkpoint(folder, best=True)
    assert best is None or (best["step"] % 7 == 0 and bool((best["w"] == best["step"]).all()))
    assert best is not None or state["step"] < 14
    newest = state["step"]
print(newest)
"""


def test_whatever_can_be_loaded_after_a_kill_is_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(tmp_path), str(os.getpid())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
    save_checkpoint(tmp_path, 10**7, state(1), limit=1)
    stems = {path.stem for path in tmp_path.glob("*.json")}
    assert {path.name for path in tmp_path.iterdir()} == {stem + end for stem in stems for end in (".pt", ".json")}

"""Killed at any moment, continued by the same command: the same weights; and on other ranks the same samples."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import mojiang
from mojiang.core.run import execute
from mojiang.data.examples import Examples
from mojiang.data.fetch import Fetch

sys.path.insert(0, str(Path(__file__).parent))
import resume_run
import storm

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def stormed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("storm")
    shutil.copytree(prepared, folder / "quiet")
    store = mojiang.open(folder / "quiet")
    execute(Examples(source=str(FIXTURES / "preferences"), form="preferences"), store, name="preferences")
    execute(Fetch(dataset="arithmetic", max_examples=60), store, name="prompts")
    shutil.copytree(folder / "quiet", folder / "stormy")
    words = [sys.executable, storm.__file__, str(folder / "quiet"), str(folder / "stormy"), str(folder / "found.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return dict(json.loads((folder / "found.json").read_text()))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", storm.recipes())
def test_a_recipe_killed_again_and_again_gives_the_undisturbed_weights(stormed: dict[str, Any], name: str) -> None:
    assert stormed[name]["kills"] >= 1
    assert stormed[name]["stormy"] == stormed[name]["quiet"]


def start(ranks: int, kind: str, scratch: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    everyone = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        own = {**everyone, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        words = [sys.executable, resume_run.__file__, kind, str(scratch), str(scratch / "out.pt")]
        processes.append(subprocess.Popen(words, env=environment))
    return processes


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait(timeout=120) for process in processes] == [0] * len(processes)


def kill_after_a_checkpoint(processes: list[subprocess.Popen[bytes]], scratch: Path) -> None:
    before = set(scratch.glob("checkpoints/*.json"))
    while set(scratch.glob("checkpoints/*.json")) <= before:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    time.sleep(random.Random(time.time_ns()).uniform(0, 0.2))
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


def steps(scratch: Path, ranks: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (scratch / f"steps-{ranks}-0.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(1, "ddp", folder))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_killed_on_two_ranks_then_on_one_then_done_by_four(kind: str, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "tokens", tmp_path / "tokens")
    for ranks in (2, 1):
        kill_after_a_checkpoint(start(ranks, kind, tmp_path), tmp_path)
    finish(start(4, kind, tmp_path))

    whole = {line["step"]: line for line in steps(undisturbed, 1)}
    assert sorted(whole) == list(range(1, resume_run.SETTINGS.num_steps + 1))
    firsts = []
    for ranks in (2, 1, 4):
        taken = steps(tmp_path, ranks)
        firsts.append(taken[0]["step"])
        for line in taken:
            assert line["rows"] == whole[line["step"]]["rows"]
            assert line["loss"] == pytest.approx(whole[line["step"]]["loss"], rel=1e-4)
    assert firsts[0] == 1
    assert firsts[0] < firsts[1] < firsts[2]  # each went on from the one before
    assert taken[-1]["step"] == resume_run.SETTINGS.num_steps
    expected, found = torch.load(undisturbed / "out.pt"), torch.load(tmp_path / "out.pt")
    assert found["validation"] == pytest.approx(expected["validation"], rel=1e-4)
    for name, weight in expected["weights"].items():
        assert torch.allclose(found["weights"][name], weight, atol=1e-4), name

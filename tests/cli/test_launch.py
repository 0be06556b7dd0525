"""Commands on several processes: one artifact, one message, one stop; and the job for Slurm."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

import mojiang
from mojiang.cli import _ray, launch
from mojiang.core.errors import BadInput, BadUsage, Interrupted, MojiangError, NotFound, RunFailed, Unavailable
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer.bpe import BPE

TINY = ("--data", "split", "--tokenizer", "bpe", "--depth", "1", "--width", "64", "--context", "64")
TINY += ("--precision", "fp32", "--compile", "off")
LONG = ("--steps", "100000", "--batch-tokens", "256", "--validations", "0")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("argparse", "heapq", "shlex", "textwrap"):
        shutil.copy(Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py", folder)
    workspace = tmp_path_factory.mktemp("launch") / "workspace"
    store = mojiang.open(workspace)
    execute(Load(source=str(folder), max_document_bytes=4000), store, name="corpus")
    execute(Split(data="corpus", validation=0.1), store, name="split")
    execute(BPE(data="split", vocab_size=512), store, name="bpe")
    return workspace


def words(workspace: Path, *more: str, launcher: str = "torchrun") -> list[str]:
    given = ["train", "pretrain", *TINY, *more, "--workspace", str(workspace), "--device", "cpu", "--json"]
    return [*given, "--launcher", launcher]


def start(workspace: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mojiang.cli.main", *words(workspace, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def checkpoints(workspace: Path) -> set[Path]:
    return set(workspace.glob("scratch/*/checkpoints/step-*.json"))


@pytest.fixture
def training(
    workspace: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A long training on two ranks that has taken a few steps, and its ranks."""
    process = start(workspace, *LONG, "--seed", str(len(request.node.name)))
    logs = workspace / "runs"
    for path in logs.glob("*/events.jsonl"):
        path.unlink()  # of the test before
    try:
        while not any('"kind": "metrics"' in path.read_text() for path in logs.glob("*/events.jsonl")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        ranks = psutil.Process(process.pid).children(recursive=True)
        assert len(ranks) == 2, ranks
        yield process, ranks
    finally:
        for left in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            left.kill()
        process.kill()
        process.communicate()


def record(stdout: str) -> dict[str, Any]:
    return dict(json.loads(stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_make_one_artifact_and_one_record(workspace: Path) -> None:
    short = ("--steps", "3", "--batch-tokens", "256", "--parallel", "fsdp", "--name", "both")
    first = start(workspace, *short)
    stdout, stderr = first.communicate()
    assert first.returncode == 0, stderr
    assert len(stdout.splitlines()) == 1
    made = record(stdout)
    assert made["artifact"] == "both@1"
    assert made["metrics"]["steps"] == 3
    assert stderr.count("plan: ") == 1  # one rank speaks
    assert stderr.count("both@1") == 1
    assert not any((workspace / "tmp").iterdir())
    assert {path.name for path in (workspace / "runs").iterdir()} == {
        run["id"] for run in mojiang.open(workspace).runs()
    }
    again = start(workspace, *short)
    assert record(again.communicate()[0]) == {**made, "reused": True, "seconds": pytest.approx(0, abs=30)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_by_hand(workspace: Path) -> None:
    given = words(workspace, "--steps", "2", "--batch-tokens", "256", "--name", "hand", launcher="local")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "mojiang.cli.main", *given]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["artifact"] for line in done.stdout.splitlines()] == ["hand@1"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_rank_refuses_is_one_message(workspace: Path) -> None:
    process = start(workspace, "--steps", "3", "--batch-tokens", "64", "--ranks", "2")
    stdout, stderr = process.communicate()
    assert process.returncode == 2
    assert record(stdout)["error"]["message"] == "a batch of 1 rows cannot be shared by 2 ranks"
    assert stderr.count("error E100") == 1
    assert "Traceback" not in stderr
    assert "torch" not in stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_saves_a_checkpoint_and_leaves_no_process(workspace: Path, training: Any) -> None:
    process, ranks = training
    before = checkpoints(workspace)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert record(stdout)["error"]["code"] == Interrupted.code
    assert "Traceback" not in stderr
    assert checkpoints(workspace) > before
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_is_killed_ends_all_with_one_message(training: Any) -> None:
    process, ranks = training
    follower = max(ranks, key=lambda rank: rank.environ()["RANK"])
    follower.send_signal(signal.SIGKILL)
    stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert "rank 1 was killed by SIGKILL" in record(stdout)["error"]["message"]
    assert "Traceback" not in stderr
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_ranks_do_not_outlive_the_command(training: Any) -> None:
    process, ranks = training
    process.kill()
    gone, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive


@pytest.fixture
def args() -> argparse.Namespace:
    command = ["train", "pretrain", "--data", "a corpus", "--launcher", "slurm"]
    given = {"name": "base", "ranks": 8, "nodes": 4, "device": "auto", "launcher": "slurm", "seed": 0}
    return argparse.Namespace(command=command, debug=False, **given)


def test_the_slurm_job_is_a_script_that_bash_reads(args: argparse.Namespace, tmp_path: Path) -> None:
    script = launch.slurm_script(args, "base", tmp_path / "base.log")
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=True)
    for line in ("#SBATCH --nodes=4", "#SBATCH --gpus-per-node=8", "#SBATCH --requeue", "#SBATCH --ntasks-per-node=1"):
        assert line in script.splitlines()
    args.device = "cpu"
    assert "gpus" not in launch.slurm_script(args, "base", tmp_path / "base.log")


def test_the_slurm_job_starts_every_node_and_is_queued_again_when_its_time_is_up(
    args: argparse.Namespace, tmp_path: Path
) -> None:
    """The job runs in bash with stand-ins for Slurm's commands."""
    for name, does in {
        "srun": 'printf "%s\\n" "$@" > words; trap "echo told > told; exit 143" TERM; while true; do sleep 0.05; done',
        "scontrol": 'if [ "$1" = show ]; then echo first-node; else echo "$@" > queued; fi',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(launch.slurm_script(args, "base", tmp_path / "base.log"))
    slurm = {"SLURM_JOB_ID": "41", "SLURM_RESTART_COUNT": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env={**os.environ, **slurm})
    while not (tmp_path / "words").exists() or not (tmp_path / "words").read_text().endswith("slurm\n"):
        time.sleep(0.02)
    job.terminate()
    job.wait(timeout=20)
    given = (tmp_path / "words").read_text().splitlines()
    assert {"--nnodes=4", "--nproc-per-node=8", "--rdzv-id=41-2", "--rdzv-endpoint=first-node:20041"} <= set(given)
    assert given[-7:] == ["mojiang.cli.main", *args.command]
    assert (tmp_path / "told").exists()
    assert (tmp_path / "queued").read_text() == "requeue 41\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"ranks": 0}, "--ranks 0"), ({"launcher": "torchrun"}, "the ranks of this machine only")],
)
def test_impossible_launches_are_refused(
    args: argparse.Namespace, wrong: dict[str, Any], said: str, store: Store
) -> None:
    from mojiang.train.pretrain import Pretrain

    with pytest.raises(BadUsage, match=said):
        launch.launch(Pretrain(data="a", tokenizer="b"), store, argparse.Namespace(**{**vars(args), **wrong}))


def test_ranks_have_nothing_to_share_where_nothing_is_trained(args: argparse.Namespace, store: Store) -> None:
    with pytest.raises(BadUsage, match="data.split does not train"):
        launch.launch(Split(data="a"), store, args)


def report(folder: Path, rank: int, time: float, error: MojiangError) -> None:
    values = {"time": time, "code": error.code, "message": error.message, "hint": error.hint}
    (folder / f"rank-{rank}.json").write_text(json.dumps(values))


def test_the_error_that_is_told_is_the_one_that_explains_the_others(tmp_path: Path) -> None:
    assert launch.read_error(tmp_path, {}) is None
    report(tmp_path, 1, 1.0, RunFailed("gloo: connection closed by peer"))
    report(tmp_path, 2, 2.0, RunFailed("connection reset"))
    assert str(launch.read_error(tmp_path, {0: 1, 1: 1, 2: 1})) == "gloo: connection closed by peer"
    assert str(launch.read_error(tmp_path, {0: -9, 1: 1, 2: -15})) == "rank 0 was killed by SIGKILL"
    report(tmp_path, 3, 3.0, Interrupted("stopped"))
    assert isinstance(launch.read_error(tmp_path, {}), Interrupted)
    report(tmp_path, 4, 3.5, RunFailed("step 7: the loss is nan"))
    assert str(launch.read_error(tmp_path, {5: -9})) == "step 7: the loss is nan"
    report(tmp_path, 0, 4.0, BadInput("no text", hint="bring some"))
    told = launch.read_error(tmp_path, {})
    assert isinstance(told, BadInput)
    assert told.hint == "bring some"


def test_without_ray_its_launcher_is_refused(args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="Ray is not installed"):
        _ray.run_ranks(args)


def test_a_worker_of_ray_raises_what_its_rank_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(launch.REPORTS, "put back afterwards")
    command = ["train", "pretrain", "--data", "nothing", "--tokenizer", "bpe", "--workspace", str(tmp_path / "w")]
    with pytest.raises(NotFound, match="no artifact is called 'nothing'") as caught:
        _ray.run_rank({"command": command})

    class Failed(Exception):
        worker_failures: ClassVar[dict[int, Exception]] = {0: caught.value}

    assert _ray.cause_of(Failed("a page of traceback")) is caught.value
    assert "the ranks failed: the last line" in str(_ray.cause_of(Exception("first\nthe last line")))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_of_ray_make_one_artifact(workspace: Path) -> None:
    pytest.importorskip("ray.train", reason="the extra `ray` is not installed")
    given = words(workspace, "--steps", "2", "--batch-tokens", "256", "--name", "rayed", "--seed", "9", launcher="ray")
    command = [sys.executable, "-m", "mojiang.cli.main", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert record(done.stdout)["artifact"] == "rayed@1"
    assert record(done.stdout)["metrics"]["steps"] == 2

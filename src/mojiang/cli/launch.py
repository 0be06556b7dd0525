"""Starting a command on several processes or machines: torchrun here, Ray, or sbatch on a Slurm cluster.

All run the very command that was given, once per rank; what differs is in each process's environment. The first rank
prepares, speaks and commits; the command that started them all says how it went.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mojiang.core.artifact import Artifact
from mojiang.core.engine import cpu_count
from mojiang.core.errors import BadUsage, Interrupted, MojiangError, RunFailed, Unavailable
from mojiang.core.files import atomic_write
from mojiang.core.recipe import Recipe
from mojiang.core.run import Outcome, rank, resolve_inputs
from mojiang.core.store import Store

REPORTS = "MOJIANG_RANK_REPORTS"
"""Environment variable: the folder to which ranks write their errors, for the command that started them to tell."""
GRACE = 60
"""Seconds that ranks have to save a checkpoint when they are told to stop."""

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH {resources}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@{warning}

# Before the time is up, Slurm tells this script; the ranks save a checkpoint, and the job goes to the queue again.
# The command is the same then, and continues.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
stop() {{
    kill -TERM "$step"
    wait "$step"
    scontrol requeue "$SLURM_JOB_ID"
}}
trap stop TERM
srun --kill-on-bad-exit=1 {command} &
step=$!
wait "$step"
"""


def is_launched() -> bool:
    """Whether this process is a rank that torchrun or Ray started."""
    return "RANK" in os.environ


def launch(config: Recipe, store: Store, args: argparse.Namespace) -> Outcome | dict[str, Any]:
    """Run this command on `--ranks` processes of this machine or of a Ray cluster, or submit it to Slurm.

    Returns what was made; of a job that was submitted, its number.

    Raises:
        BadUsage: fewer than one rank or node, or nothing that ranks could share.
        Unavailable: there is no Slurm or Ray here.
        Interrupted: stopped by the user; the ranks have saved a checkpoint.
        RunFailed: a rank failed; its own error is raised where it gave one.
    """
    started = time.monotonic()
    if args.ranks < 1 or args.nodes < 1:
        raise BadUsage(f"--ranks {args.ranks} --nodes {args.nodes}", hint="both must be at least 1")
    if "compute" not in type(config).model_fields:
        raise BadUsage(f"{config.recipe} does not train, so ranks have nothing to share", hint="leave --launcher out")
    if args.launcher == "torchrun" and args.nodes > 1:
        raise BadUsage(
            "--launcher torchrun starts the ranks of this machine only",
            hint="use --launcher slurm, or start torchrun on each machine: see docs/guides/distributed.md",
        )
    if args.launcher == "slurm":
        return _submit(args, store)
    existing = _made(config, store, args.seed)
    if existing is not None:
        return Outcome(store.verify(existing), existing.manifest.run, True, time.monotonic() - started)
    if args.launcher == "ray":
        from mojiang.cli._ray import run_ranks

        run_ranks(args)
    else:
        _run_ranks(args)
    artifact = _made(config, store, args.seed)
    if artifact is None:
        raise RunFailed("the ranks ended without an artifact", hint="--debug shows what they said")
    return Outcome(artifact, artifact.manifest.run, False, time.monotonic() - started)


def _made(config: Recipe, store: Store, seed: int) -> Artifact | None:
    inputs = resolve_inputs(config, store)
    parents = {field: [artifact.fingerprint for artifact in group] for field, group in inputs.items()}
    return store.by_fingerprint(config.fingerprint(parents, seed))


def _run_ranks(args: argparse.Namespace) -> None:
    """Be torchrun: start the ranks, wait, and raise their error; a signal is passed on and their end waited for."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not args.debug:  # its own account of a failure is a page long
        logging.getLogger("torch").setLevel(logging.CRITICAL)
    threads = max(1, cpu_count() // args.ranks)
    words = torchrun(args.ranks, [*_rendezvous(), f"--shutdown-timeout={GRACE}"], args.command)
    with tempfile.TemporaryDirectory(prefix="mojiang-ranks-") as folder, _environment(folder, threads):
        try:
            run.run(run.parse_args(words))  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise read_error(Path(folder), codes) or RunFailed(f"the ranks ended with {codes}") from None
        except SignalException:
            stopped = Interrupted("stopped at your request", hint="the same command continues from here")
            raise read_error(Path(folder), {}) or stopped from None


def _rendezvous() -> list[str]:
    """A free port of this machine, without looking up its name: some machines do not know their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ["--master-addr=127.0.0.1", f"--master-port={probe.getsockname()[1]}"]


@contextmanager
def _environment(folder: str, threads: int) -> Iterator[None]:
    """What the ranks inherit, for the time they run."""
    values = {REPORTS: folder, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def torchrun(ranks: int, rendezvous: list[str], command: list[str]) -> list[str]:
    """torchrun's arguments for a command of ours; only the first rank's output is shown."""
    words = [*rendezvous, f"--nproc-per-node={ranks}", "--local-ranks-filter=0", "--log-dir=/dev/null"]
    return [*words, "-m", "mojiang.cli.main", *command]


# --- what a rank does ----------------------------------------------------------------------------------------------


@contextmanager
def as_rank(debug: bool) -> Iterator[None]:
    """A rank's work: it ends with the process that started it, and leaves its error to that, if that is ours."""
    _end_with_parent()
    folder = os.environ.get(REPORTS)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if folder is None:
            raise
        if debug:
            traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted("stopped at once", hint="the same command continues it")
        elif not isinstance(error, MojiangError):
            error = RunFailed(f"{type(error).__name__}: {error}", hint="--debug shows the traceback")
        report = {"time": time.time(), "code": error.code, "message": error.message, "hint": error.hint}
        atomic_write(Path(folder) / f"rank-{rank()}.json", json.dumps(report))
        raise SystemExit(error.exit_code) from None


LOST = ("gloo", "NCCL", "onnection", "TCPStore")
"""Words in the errors of ranks that cannot reach another one, which is a consequence."""


def read_error(folder: Path, codes: dict[int, int]) -> MojiangError | None:
    """The error that explains the others: one that a rank raised on purpose, a rank that was killed, or the first.

    `codes` are the ranks' exit codes, less than 0 for the signal that ended one.
    """
    reports = [json.loads(path.read_text()) for path in folder.glob("rank-*.json")]
    told = min(reports, key=lambda report: (_consequence(report), report["time"]), default=None)
    ours = (signal.SIGTERM, signal.SIGINT)  # by which the others were told to stop
    killed = {rank: signal.Signals(-code) for rank, code in codes.items() if code < 0 and -code not in ours}
    if killed and (told is None or _consequence(told) == 3):
        rank, sent = min(killed.items())
        return RunFailed(
            f"rank {rank} was killed by {sent.name}",
            hint="memory may have been short (fsdp needs less than ddp); the same command goes on from its checkpoint",
        )
    if told is None:
        return None
    kinds: dict[str, type[MojiangError]] = {kind.code: kind for kind in MojiangError.__subclasses__()}
    return kinds.get(told["code"], RunFailed)(told["message"], hint=told["hint"])


def _consequence(report: dict[str, Any]) -> int:
    """How likely an error only follows from another rank's."""
    if report["code"] == RunFailed.code:
        return 3 if any(word in report["message"] for word in LOST) else 1
    return 2 if report["code"] == Interrupted.code else 0


def _end_with_parent() -> None:
    """Have the kernel kill this rank when the process that started it is gone: nobody would be left to stop it."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:  # Ray looks after its workers itself
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


# --- Slurm ---------------------------------------------------------------------------------------------------------


def _submit(args: argparse.Namespace, store: Store) -> dict[str, Any]:
    name = args.name or "mojiang"
    path = store.workspace / "slurm" / f"{name}.sh"
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, slurm_script(args, name, path.with_suffix(".log")))
    if shutil.which("sbatch") is None:
        raise Unavailable(
            f"there is no sbatch here; the job is written to {path}", hint=f"on the cluster: sbatch {path}"
        )
    answer = subprocess.run(["sbatch", "--parsable", str(path)], check=False, capture_output=True, text=True)
    if answer.returncode:
        raise Unavailable(f"sbatch refused the job: {answer.stderr.strip()}", hint=f"look at {path}")
    return {"launcher": "slurm", "job": answer.stdout.strip(), "script": str(path)}


def slurm_script(args: argparse.Namespace, name: str, log: Path) -> str:
    """The job: one torchrun a node, which meet at the first node's address."""
    ours = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={args.nodes}", "--rdzv-backend=c10d"]
    shell = ['--rdzv-id="$SLURM_JOB_ID-$SLURM_RESTART_COUNT"', '--rdzv-endpoint="$head:$port"']
    words = [*map(shlex.quote, ours), *shell, *map(shlex.quote, torchrun(args.ranks, [], args.command))]
    cpu = args.device == "cpu"
    return SCRIPT.format(
        name=name, nodes=args.nodes, log=log, command=" ".join(words), warning=GRACE + 60,
        resources=f"--cpus-per-task={args.ranks}" if cpu else f"--gpus-per-node={args.ranks}",
    )  # fmt: skip

"""Ranks as workers of a Ray cluster: Ray Train places them, sets their environment and makes their process group."""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from mojiang.cli.launch import REPORTS, read_error
from mojiang.core.cluster import ours_behind
from mojiang.core.errors import MojiangError, RunFailed, Unavailable


def run_ranks(args: argparse.Namespace) -> None:
    """Run this command on `--ranks` × `--nodes` workers, of the cluster that RAY_ADDRESS names, or of this machine.

    The workspace must be on storage that all nodes share.

    Raises:
        Unavailable: Ray is not installed.
        MojiangError: what a rank raised.
    """
    if importlib.util.find_spec("ray") is None:
        raise Unavailable("Ray is not installed", hint="pip install 'mojiang[ray]', or use --launcher torchrun")
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from mojiang.core.run import resolve_device

    workers, gpu = args.ranks * args.nodes, resolve_device(args.device) == "cuda"
    trainer = TorchTrainer(
        run_rank, train_loop_config={"command": args.command},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu), run_config=RunConfig(name="mojiang"),
    )  # fmt: skip
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise cause_of(error) from None


def run_rank(config: dict[str, Any]) -> None:
    """One worker: the command itself; its error is raised, for Ray to carry to whoever waits."""
    from mojiang.cli.main import main

    with tempfile.TemporaryDirectory(prefix="mojiang-rank-") as folder:
        os.environ[REPORTS] = folder
        try:
            code = main(config["command"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        if code:
            raise read_error(Path(folder), {}) or RunFailed(f"a rank ended with exit code {code}")


def cause_of(error: Any) -> MojiangError:
    """The error of ours that Ray's is about: the one of the first rank that has one."""
    for failure in getattr(error, "worker_failures", {}).values():
        if found := ours_behind(failure):
            return found
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return RunFailed(f"the ranks failed: {last}", hint="Ray's log, above, has the rest")

"""Fixtures every package's tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mojiang
from mojiang.core.store import Store

# Threads of one test would otherwise fight with those of the next process.
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of its own."""
    return mojiang.open(tmp_path / "workspace")


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `mojiang …` as a user does, in a process of its own, in this test's workspace."""

    def run(*words: str, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mojiang.cli.main", *words]
        environment = {**os.environ, "MOJIANG_WORKSPACE": str(tmp_path / "workspace"), "COLUMNS": "200"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run

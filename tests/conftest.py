"""Fixtures every package's tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import mojiang
from mojiang.core.store import Store

# Threads of one test would otherwise fight with those of the next process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # waiting threads give their core away, as in the CLI
settings.register_profile("mojiang", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("mojiang")


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


MODULES = (
    "textwrap", "bisect", "heapq", "shlex", "string", "statistics", "fractions", "calendar", "csv", "stat", "copy",
    "types", "colorsys", "graphlib", "queue", "sched", "reprlib", "operator", "base64", "glob", "argparse", "ast",
)  # fmt: skip


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real corpus: modules of the standard library, Markdown in English, Chinese classics, and a copy."""
    folder = tmp_path_factory.mktemp("texts")
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in MODULES:
        shutil.copy(library / f"{name}.py", folder)
    shutil.copy(library / "textwrap.py", folder / "a_copy.py")
    for path in (Path(__file__).parent / "fixtures" / "zh").iterdir():
        shutil.copy(path, folder)
    pages = {"a": "ARCHITECTURE.md", "b": "STYLE.md", "c": "CONTRIBUTING.md"}
    for name, page in pages.items():
        shutil.copy(Path(__file__).parents[1] / page, folder / f"{name}.md")
    shutil.copy(folder / "a.md", folder / "z-copy-of-a.md")
    return folder


# The shape and length of a model that trains in seconds, and a policy that asks only that it was measured; everything
# else is as users have it.
TINY = (
    "base.minutes=null", "base.steps=12", "base.depth=2", "base.width=128", "chat.minutes=null", "chat.steps=4",
    "completion.problems=4", f"gate.policy={Path(__file__).parent / 'contract' / 'lenient.yaml'}",
)  # fmt: skip

Quickstart = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def quickstart(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """`quickstart(*settings)` gives the command on `texts`, always in one workspace, and returns its JSON record."""
    workspace = tmp_path_factory.mktemp("quickstart") / "workspace"

    def run(*settings: str) -> dict[str, Any]:
        flags = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
        command = [sys.executable, "-m", "mojiang.cli.main", "quickstart", "--data", str(texts), *flags, "--json"]
        environment = {**os.environ, "MOJIANG_WORKSPACE": str(workspace)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]), workspace=str(workspace))

    return run


@pytest.fixture(scope="session")
def quickstarted(quickstart: Quickstart) -> dict[str, Any]:
    """The record of the first quickstart."""
    return quickstart()

"""A tiny served model, in this process and in one of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest

SCRIPT = Path(__file__).parents[1] / "tiny_serving.py"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/tiny_serving.py as a module."""
    spec = importlib.util.spec_from_file_location("tiny_serving", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ServerProcess:
    """A real server in its own process, on a free port of loopback."""

    def __init__(self, **options: Any) -> None:
        command = [sys.executable, str(SCRIPT), json.dumps(options)]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the server did not start"
        self.root = self.url.removesuffix("/v1")

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="any", max_retries=0, timeout=60)

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", httpx.get(f"{self.root}/metrics").text, re.M)
        return sum(map(float, found))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Poll until `condition` holds."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Start server processes; they end with the test."""
    started: list[ServerProcess] = []

    def start(**options: Any) -> ServerProcess:
        started.append(ServerProcess(**options))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """One server process for all tests that do not stop it."""
    process = ServerProcess()
    yield process
    process.close()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The official client."""
    with server.client() as client:
        yield client

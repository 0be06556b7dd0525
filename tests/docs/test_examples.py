"""Every example runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *words: str, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_text_to_model_and_into_transformers(texts: Path, tmp_path: Path) -> None:
    output = run("from_text_to_model.py", str(texts), str(tmp_path / "workspace"), cwd=tmp_path)
    assert "bits per byte" in output
    assert "data.load@3" in output
    output = run("load_with_transformers.py", str(tmp_path / "workspace/artifacts/base/1"), cwd=tmp_path)
    assert "largest difference" in output


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_my_pipeline(texts: Path, cli) -> None:  # type: ignore[no-untyped-def]
    cli("run", str(EXAMPLES / "my_pipeline.yaml"), "--set", f"source={texts}", "--set", "steps=5")
    assert "mine-model@1" in cli("show", "mine-model@newest").stdout


def test_each_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in listed

"""The pipeline from raw files to shards: killed at odd moments, and asked about every document."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mojiang
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.data._accounting import why_dropped
from mojiang.data._documents import read_documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = ("raw", "clean", "normal", "good", "private", "unique", "split")


def command(texts: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "mojiang.cli.main",
        "run",
        "corpus",
        "--set",
        f"data={texts}",
        "--set",
        "vocab_size=600",
    ]


def start(texts: Path, workspace: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "MOJIANG_WORKSPACE": str(workspace)}
    return subprocess.Popen(command(texts), env=environment, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def undisturbed(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the pipeline ran to its end."""
    workspace = tmp_path_factory.mktemp("undisturbed")
    assert start(texts, workspace).wait(timeout=300) == 0
    return mojiang.open(workspace)


def files_of(store: Store) -> dict[str, Any]:
    """Of everything but the data card, which says when things were made."""
    return {artifact.ref: artifact.manifest.files for artifact in store.artifacts() if artifact.kind != "report"}


def test_killed_twice_it_ends_with_the_same_files(undisturbed: Store, texts: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    for number in chance.sample(range(1, 8), 2):
        process = start(texts, tmp_path)
        while process.poll() is None and len(list((tmp_path / "artifacts").glob("corpus-*"))) < number:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.wait()
    assert start(texts, tmp_path).wait(timeout=300) == 0
    again = mojiang.open(tmp_path)
    assert files_of(again) == files_of(undisturbed)
    assert not any((tmp_path / "tmp").iterdir())


def test_every_document_is_kept_or_dropped_for_a_reason(undisturbed: Store, texts: Path) -> None:
    artifacts = [undisturbed.get(f"corpus-{step}") for step in STEPS]
    totals = [Report.load(artifact.path).scalars for artifact in artifacts]
    assert totals[0]["documents_in"] == len([path for path in texts.rglob("*") if path.is_file()])
    for before, after in zip(totals, totals[1:], strict=False):
        assert after["documents_in"] == before["documents_kept"]
    kept = {row["id"] for batch in read_documents(artifacts[-1].path) for row in batch.to_pylist()}
    every = [row["id"] for batch in read_documents(artifacts[0].path) for row in batch.to_pylist()]
    assert kept
    for document in every:
        fates = [fate for fate in why_dropped(artifacts, document) if fate.outcome != "not seen"]
        assert fates[-1].outcome == ("kept" if document in kept else "dropped")
        assert fates[-1].reason
        assert all(fate.outcome == "kept" for fate in fates[:-1])

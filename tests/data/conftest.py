"""Fixtures of the data tests: run a recipe in this process, and make corpora by writing files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import read_documents
from mojiang.data.load import Load

Make = Callable[[Recipe], Artifact]
Folder = Callable[[Mapping[str, str | bytes]], Path]


@pytest.fixture
def make(store: Store) -> Make:
    """Execute a recipe without a process pool: the same code, started faster."""

    def run(recipe: Recipe) -> Artifact:
        return execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write files into a folder of this test; text as UTF-8, bytes as they are."""

    def write(files: Mapping[str, str | bytes]) -> Path:
        root = tmp_path / "source"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


@pytest.fixture
def corpus(make: Make, folder: Folder) -> Callable[[Mapping[str, str | bytes]], Artifact]:
    """Load files as a dataset."""

    def load(files: Mapping[str, str | bytes]) -> Artifact:
        return make(Load(source=str(folder(files))))

    return load


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """The documents of a dataset, as dictionaries."""

    def read(artifact: Artifact, split: str | None = None) -> list[dict[str, Any]]:
        return [row for batch in read_documents(artifact.path, split) for row in batch.to_pylist()]

    return read

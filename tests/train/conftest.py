from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest

import mojiang
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.data.mine import Mine
from mojiang.data.split import Split
from mojiang.tokenizer.bpe import BPE

MODULES = ("argparse", "ast", "bisect", "calendar", "csv", "fractions", "heapq", "shlex", "statistics", "textwrap")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a small split corpus, mined conversations and a tokenizer."""
    folder = tmp_path_factory.mktemp("texts")
    for name in MODULES:
        shutil.copy(Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py", folder)
    workspace = tmp_path_factory.mktemp("train") / "workspace"
    store = mojiang.open(workspace)
    execute(Load(source=str(folder), max_document_bytes=8000), store, name="corpus")
    execute(Split(data="corpus", validation=0.1), store, name="split")
    execute(Mine(data="split"), store, name="pairs")
    execute(BPE(data="split", vocab_size=1024), store, name="bpe")
    return workspace


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path) -> Store:
    """A copy of it, for one test to write to."""
    shutil.copytree(prepared, tmp_path / "workspace")
    return mojiang.open(tmp_path / "workspace")

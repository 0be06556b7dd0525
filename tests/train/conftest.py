from __future__ import annotations

import hashlib
import json
import shutil
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import mojiang
from mojiang.core.artifact import Artifact, Manifest
from mojiang.core.run import execute
from mojiang.core.store import Store, now
from mojiang.data.examples import Examples
from mojiang.data.load import Load
from mojiang.data.mine import Mine
from mojiang.data.split import Split
from mojiang.model.bert import Bert, BertConfig
from mojiang.model.load import save_model
from mojiang.model.network import Network
from mojiang.tokenizer import wordpiece
from mojiang.tokenizer._format import save_tokenizer
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


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Put = Callable[..., Artifact]


@pytest.fixture
def dataset(store: Store, tmp_path: Path) -> Put:
    """`dataset(name, form, train=rows, validation=rows)`: examples in the store."""

    def one(name: str, form: Any, **splits: list[dict[str, Any]]) -> Artifact:
        folder = tmp_path / f"{name}-source"
        folder.mkdir()
        for split, rows in splits.items():
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        recipe = Examples(source=str(folder), form=form, validation=0, test=0, dedup=False, language="en")
        return execute(recipe, store, name=name).artifact

    return one


@pytest.fixture
def network(store: Store, tmp_path: Path) -> Put:
    """`network(name, words, build)`: a model `build(vocabulary size)`, or without one the tokenizer alone.

    The tokenizer is a WordPiece of these words and their letters.
    """

    def one(name: str, words: Iterable[str], build: Callable[[int], Network] | None = None) -> Artifact:
        folder = tmp_path / f"{name}-made"
        folder.mkdir()
        letters = sorted({letter for word in words for letter in word})
        pieces = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words])
        vocab = {piece: number for number, piece in enumerate(pieces)}
        save_tokenizer(wordpiece._tokenizer(True, vocab), folder, wordpiece._settings(True))
        if build is not None:
            save_model(build(len(vocab)), None, folder)
        manifest = Manifest(
            kind="model" if build else "tokenizer", name=name, version=1, recipe="import", config={}, parents={},
            fingerprint=hashlib.sha256(name.encode()).hexdigest(), run="import", seed=None, created=now(), seconds=0.0,
            metrics={}, files={}, software={},
        )  # fmt: skip
        return store.commit(folder, manifest)

    return one


def small_bert(vocab_size: int) -> Network:
    """A BERT of two narrow layers, for 64 positions."""
    return Bert(BertConfig(vocab_size, 32, 2, 4, 64, max_position_embeddings=64, head="masked_lm")).init_weights(0)


@pytest.fixture
def bert() -> Callable[[int], Network]:
    """What `network` builds a small BERT with."""
    return small_bert

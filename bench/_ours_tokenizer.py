"""Our side of `data_tokenizer.py`, as JSON on the last line.

_ours_tokenizer.py prepare CORPUS.parquet FOLDER          a stored, split corpus, and an untrained tokenizer's file
_ours_tokenizer.py train VOCABULARY FOLDER                `tokenizer.bpe`, with its report
_ours_tokenizer.py encode WORKERS FOLDER                  `tokenizer.shards`
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from _gate import versions
from _peer_tokenizers import cpu_seconds

import mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute


def another() -> int:
    """Makes a setting one that the store has nothing of: what it has would not be made again."""
    return int(time.time() * 10) % 10**6


def prepare(path: Path, folder: Path) -> dict[str, Any]:
    from mojiang.data.load import Load
    from mojiang.data.split import Split
    from mojiang.tokenizer._format import SPECIAL_TOKENS, empty_tokenizer

    store, here = mojiang.open(folder / "store"), Circumstance(engine=LocalEngine(workers=1))
    loaded = execute(Load(source=str(path), language="en"), store, name="corpus", circumstance=here).artifact
    made = execute(Split(data=loaded.ref), store, name="split", circumstance=here).artifact
    empty_tokenizer().save(str(folder / "empty.json"))
    metrics = made.metrics
    about = {"special": SPECIAL_TOKENS, "corpus": str(made.path / "train"), "held_out": str(made.path / "validation")}
    (folder / "about.json").write_text(json.dumps(about))
    return {"metrics": metrics}


def train(vocabulary: int, folder: Path) -> dict[str, Any]:
    from mojiang.tokenizer.bpe import BPE

    store, here = mojiang.open(folder / "store"), Circumstance(engine=LocalEngine(workers=1))
    clocks = time.perf_counter(), cpu_seconds()
    recipe = BPE(data="split", vocab_size=vocabulary, max_sample_bytes=10**9 + another())
    made = execute(recipe, store, name="bpe", circumstance=here).artifact
    spent = {"seconds": time.perf_counter() - clocks[0], "cpu": cpu_seconds() - clocks[1]}
    return {**spent, "tokenizer": str(made.path / "tokenizer.json"), "metrics": made.metrics}


def encode(workers: int, folder: Path) -> dict[str, Any]:
    from mojiang.core.errors import MojiangError
    from mojiang.tokenizer.shards import TokenShards

    store = mojiang.open(folder / "store")
    engine = LocalEngine(workers=workers)
    recipe = TokenShards(data="split", tokenizer="bpe", shard_tokens=2**27 + another())
    clocks = time.perf_counter(), cpu_seconds()
    try:
        made = execute(recipe, store, circumstance=Circumstance(engine=engine)).artifact
    except MojiangError as error:
        raise SystemExit(str(error)) from error
    engine.close()
    spent = {"seconds": time.perf_counter() - clocks[0], "cpu": cpu_seconds() - clocks[1]}
    digest = hashlib.sha256()
    for path in sorted((made.path / "train").glob("tokens-*.bin")):
        digest.update(path.read_bytes())
    return {**spent, "sha256": digest.hexdigest(), "metrics": made.metrics}


def main() -> None:
    what, first, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if what == "prepare":
        made = prepare(Path(first), folder)
    else:
        made = {"train": train, "encode": encode}[what](int(first), folder)
    print(json.dumps({**made, "versions": versions("mojiang", "tokenizers", "numpy")}))


if __name__ == "__main__":
    main()

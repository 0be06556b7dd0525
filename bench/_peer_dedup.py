"""Deduplicate a corpus with a peer, and print what it kept, as JSON: a side of `data_dedup.py`.

    _peer_dedup.py SIDE CORPUS.jsonl FOLDER

Sides: `rensa` (texts in memory, character 5-grams, query and insert as its README has it; its one-shot calls flag the
first of a group too, and would leave none), `datatrove-en`, `datatrove-zh` (its four MinHash stages with its defaults,
from .jsonl to .jsonl), and `pairs`, which is no deduplication but the truth: all pairs that are alike character by
character (Indel similarity of rapidfuzz, brute force).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

THRESHOLD = 0.8
PERMUTATIONS, BANDS = 128, 16


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def grams(text: str, size: int = 5) -> list[str]:
    return [text[at : at + size] for at in range(max(1, len(text) - size + 1))]


def rensa(path: Path) -> tuple[float, float, list[int]]:
    from rensa import RMinHash, RMinHashLSH

    texts = texts_of(path)
    clocks = time.perf_counter(), time.process_time()
    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    kept, hashes = [], {}
    for number, text in enumerate(texts):
        minhash = RMinHash(num_perm=PERMUTATIONS, seed=42)
        minhash.update(grams(text))
        if any(hashes[other].jaccard(minhash) >= THRESHOLD for other in lsh.query(minhash)):
            continue
        lsh.insert(number, minhash)
        hashes[number] = minhash
        kept.append(number)
    return time.perf_counter() - clocks[0], time.process_time() - clocks[1], kept


def datatrove(path: Path, folder: Path, language: str) -> tuple[float, float, list[int]]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )  # fmt: skip
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.typeshelper import Languages

    language = {"en": Languages.english, "zh": Languages.mandarin_chinese}[language]  # `chinese` splits at spaces
    source = folder / "source"
    source.mkdir(parents=True)
    with open(source / "a.jsonl", "w", encoding="utf-8") as file:
        for number, text in enumerate(texts_of(path)):
            file.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
    config = MinhashConfig()
    clocks = time.perf_counter(), time.process_time()

    def stage(name: str, *steps: Any) -> None:
        LocalPipelineExecutor([*steps], tasks=1, workers=1, logging_dir=str(folder / "logs" / name)).run()

    def at(name: str) -> str:
        return str(folder / name)

    reader = JsonlReader(str(source))
    stage("1", reader, MinhashDedupSignature(at("signatures"), config=config, language=language))
    buckets = MinhashDedupBuckets(at("signatures"), at("buckets"), config=config)
    LocalPipelineExecutor([buckets], tasks=config.num_buckets, workers=1, logging_dir=at("logs/2")).run()
    stage("3", MinhashDedupCluster(at("buckets"), at("remove"), config=config))
    out = JsonlWriter(at("out"), compression=None)
    stage("4", JsonlReader(str(source)), MinhashDedupFilter(at("remove")), out)
    seconds, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    lines = [line for part in sorted((folder / "out").iterdir()) for line in part.read_text("utf-8").splitlines()]
    return seconds, cpu, [int(json.loads(line)["id"]) for line in lines]


def alike(texts: Sequence[str], limit: float) -> list[tuple[int, int, float]]:
    """All pairs of different texts that are at least so alike, in percent."""
    import numpy as np
    from rapidfuzz import fuzz, process

    order = np.argsort([len(text) for text in texts], kind="stable")
    ordered = [texts[number] for number in order]
    lengths = np.array([len(text) for text in ordered])
    pairs = []
    for first in range(0, len(ordered), 250):
        rows = ordered[first : first + 250]
        longest = lengths[first + len(rows) - 1] * (200 - limit) / limit  # a longer one cannot be so alike
        columns = ordered[first : int(np.searchsorted(lengths, longest, "right"))]
        scores = process.cdist(rows, columns, scorer=fuzz.ratio, score_cutoff=limit, dtype=np.float32, workers=1)
        for one, other in zip(*np.nonzero(scores), strict=True):
            if other > one:
                pairs.append((int(order[first + one]), int(order[first + other]), float(scores[one, other])))
    return pairs


def main() -> None:
    side, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if side == "pairs":
        print(json.dumps({"pairs": alike(texts_of(path), 75.0)}))
        return
    if side.startswith("datatrove"):
        seconds, cpu, kept = datatrove(path, folder, side.removeprefix("datatrove-"))
    else:
        seconds, cpu, kept = rensa(path)
    packages = ("datatrove", "rensa", "xxhash")
    print(json.dumps({"seconds": seconds, "cpu": cpu, "kept": kept, "versions": {p: version(p) for p in packages}}))


if __name__ == "__main__":
    main()

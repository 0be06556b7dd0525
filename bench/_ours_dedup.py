"""Our sides of `data_dedup.py`, as JSON on the last line.

    _ours_dedup.py SIDE CORPUS.jsonl FOLDER

Sides: `memory` (texts in memory, exact and near copies), `recipe` (`data.dedup` from a stored corpus to a stored
corpus), `suffix` (`data.dedup --substring 100 --near null` likewise), `brute` (recall and precision of the near copies
among the corpus's documents against every pair counted).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _peer_dedup import texts_of

import mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.data._exact import content_key
from mojiang.data._minhash import as_sets, band_keys, choose_bands, components, jaccard, pairs_in_band, unique_pairs
from mojiang.data._near import Near
from mojiang.data._shingles import Shingled, shingle


def near_pairs(shingled: Shingled, near: Near) -> tuple[Any, Any]:
    """Confirmed pairs, and the sets of all documents."""
    cut = choose_bands(near.threshold, near.error, len(shingled.starts) - 1)
    keys, some = band_keys(shingled, cut), np.flatnonzero(np.diff(shingled.starts))
    pairs = unique_pairs(pairs_in_band(keys[some, band], some) for band in range(cut.bands))
    used = np.unique(pairs)
    spans = [(int(shingled.starts[n]), int(shingled.starts[n + 1])) for n in used]
    hashes = np.concatenate([shingled.hashes[:0], *(shingled.hashes[a:b] for a, b in spans)])
    sets = as_sets(Shingled(hashes, np.concatenate([[0], np.cumsum([b - a for a, b in spans])]).astype(np.int64)))
    return pairs[jaccard(sets, np.searchsorted(used, pairs), near.threshold) >= near.threshold], used


def memory(path: Path) -> dict[str, Any]:
    texts, near = texts_of(path), Near()
    clocks = time.perf_counter(), time.process_time()
    seen: dict[bytes, int] = {}
    unique = [number for number, text in enumerate(texts) if seen.setdefault(content_key(text), number) == number]
    pairs, _ = near_pairs(shingle([texts[number] for number in unique]), near)
    roots = components(len(unique), pairs)
    kept = [unique[number] for number in np.flatnonzero(roots == np.arange(len(unique))).tolist()]
    return {"seconds": time.perf_counter() - clocks[0], "cpu": time.process_time() - clocks[1], "kept": kept}


def recipe(path: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    from mojiang.data._documents import read_documents
    from mojiang.data.dedup import Dedup
    from mojiang.data.load import Load

    shutil.rmtree(folder, ignore_errors=True)
    store, here = mojiang.open(folder), Circumstance(engine=LocalEngine(workers=1))
    loaded = execute(Load(source=str(path)), store, circumstance=here).artifact
    clocks = time.perf_counter(), time.process_time()
    made = execute(Dedup(data=loaded.ref, **settings), store, circumstance=here).artifact
    clocks = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    # The number of the line, which is the peers' name of a document.
    kept = [
        int(name.rpartition("#")[2]) - 1
        for batch in read_documents(made.path, columns=["path"])
        for name in batch.column("path").to_pylist()
    ]
    return {"seconds": clocks[0], "cpu": clocks[1], "kept": kept, "metrics": made.metrics}


def brute(path: Path) -> dict[str, Any]:
    """All pairs' shared shingles by counting, document by document: no signature, no band."""
    near = Near()
    sets = as_sets(shingle(list(dict.fromkeys(texts_of(path)))))
    count = len(sets.starts) - 1
    owner = np.repeat(np.arange(count), np.diff(sets.starts))
    order = np.argsort(sets.hashes, kind="stable")
    ordered, owners = sets.hashes[order], owner[order]
    sizes = np.diff(sets.starts)
    truth = set()
    for one in range(count):
        mine = sets.hashes[sets.starts[one] : sets.starts[one + 1]]
        low, high = np.searchsorted(ordered, mine, "left"), np.searchsorted(ordered, mine, "right")
        others = np.concatenate([owners[:0], *(owners[a:b] for a, b in zip(low, high, strict=True))])
        shared = np.bincount(others[others > one], minlength=count)
        similar = shared >= near.threshold * (sizes[one] + sizes - shared) - 1e-9
        truth |= {(one, int(other)) for other in np.flatnonzero(similar & (shared > 0))}
    found = {tuple(pair) for pair in near_pairs(sets, near)[0].tolist()}
    roots = components(count, np.array(sorted(found), np.int64).reshape(-1, 2))
    together = sum(bool(roots[one] == roots[other]) for one, other in truth)
    return {"documents": count, "pairs": len(truth), "recall": together / max(1, len(truth)),
            "precision": len(found & truth) / max(1, len(found))}  # fmt: skip


def main() -> None:
    side, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    made = {
        "memory": lambda: memory(path),
        "recipe": lambda: recipe(path, folder),
        "suffix": lambda: recipe(path, folder, near=None, substring=100),
        "brute": lambda: brute(path),
    }[side]()
    versions = {"mojiang": mojiang.__version__, "numpy": np.__version__}
    print(json.dumps({**made, "versions": versions}))


if __name__ == "__main__":
    main()

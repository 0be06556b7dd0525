"""Our side of `data_ray.py`, as JSON on the last line.

_ours_ray.py prepare CORPUS.parquet FOLDER      a stored corpus
_ours_ray.py ENGINE:WORKERS SEED FOLDER         `data.clean` and `data.filter` on `ray` or `local`
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from _gate import versions

import mojiang
from mojiang.core.cluster import RayEngine
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.data.clean import Clean
from mojiang.data.filter import Filter
from mojiang.data.load import Load


def prepare(path: Path, folder: Path) -> dict[str, Any]:
    here = Circumstance(engine=LocalEngine(workers=1))
    made = execute(Load(source=str(path)), mojiang.open(folder), name="corpus", circumstance=here).artifact
    return {"metrics": made.metrics}


def steps(kind: str, workers: int, telling: int, folder: Path) -> dict[str, Any]:
    store = mojiang.open(folder)
    engine = RayEngine(workers) if kind == "ray" else LocalEngine(workers)
    began = time.perf_counter()
    list(engine.map(len, ["a"] * 8))  # the cluster and its workers are there before the clock runs
    ready, began = time.perf_counter() - began, time.perf_counter()
    here = Circumstance(engine=engine)
    # What makes it another artifact changes nothing: no document has so many words.
    clean = execute(Clean(data="corpus", min_characters=8 + telling % 2), store, circumstance=here).artifact
    recipe = Filter(data=clean.ref, max_keywords=float(telling))
    made = execute(recipe, store, circumstance=here).artifact
    seconds = time.perf_counter() - began
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(made.path.glob("documents-*.parquet"))))
    return {"seconds": seconds, "ready": ready, "sha256": digest.hexdigest(), "metrics": made.metrics}


def main() -> None:
    what, first, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    kind, _, workers = what.partition(":")
    made = prepare(Path(first), folder) if what == "prepare" else steps(kind, int(workers), int(first), folder)
    print(json.dumps({**made, "versions": versions("mojiang", "ray", "pyarrow")}))


if __name__ == "__main__":
    main()

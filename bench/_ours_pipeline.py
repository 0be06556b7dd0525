"""Our side of `data_pipeline.py`, as JSON on the last line.

    _ours_pipeline.py LANGUAGES CORPUS.parquet FOLDER

`data.load` (which finds out the language), `data.clean`, `data.filter` and `data.dedup`, from a Parquet file to a
stored corpus, with their defaults; LANGUAGES, with commas between, are kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from _gate import peak_bytes, versions

import mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.data._documents import read_documents
from mojiang.data.clean import Clean
from mojiang.data.dedup import Dedup
from mojiang.data.filter import Filter
from mojiang.data.load import Load


def pipeline(languages: tuple[str, ...], path: Path, folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    store, here = mojiang.open(folder), Circumstance(engine=LocalEngine(workers=1))
    clocks = time.perf_counter(), time.process_time()
    made, cpu, ref = None, {}, ""
    for name, recipe in (
        ("load", lambda _: Load(source=str(path))),
        ("clean", lambda ref: Clean(data=ref)),
        ("filter", lambda ref: Filter(data=ref, languages=languages)),
        ("dedup", lambda ref: Dedup(data=ref)),
    ):
        began = time.process_time()
        made = execute(recipe(ref), store, circumstance=here).artifact
        cpu[name], ref = time.process_time() - began, made.ref
    seconds, total = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    assert made is not None
    # The number of the row, which is the peers' name of a document.
    kept = [
        int(name.rpartition("#")[2]) - 1
        for batch in read_documents(made.path, columns=["path"])
        for name in batch.column("path").to_pylist()
    ]
    return {"seconds": seconds, "cpu": total, "steps": cpu, "peak_bytes": peak_bytes(), "kept": kept}


def main() -> None:
    made = pipeline(tuple(sys.argv[1].split(",")), Path(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({**made, "versions": versions("mojiang", "numpy", "pyarrow")}))


if __name__ == "__main__":
    main()

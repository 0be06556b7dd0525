"""How much faster are two workers than one, on Ray and in our own process pool?

    python bench/data_ray.py [--repeats 3] [--quick]

`data.clean` and `data.filter` on 120 MB of English and Chinese, by the clock: a quiet machine with two cores is needed.
Starting the cluster and its workers is not counted (it is a row of its own). The results are the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _corpora import corpus
from _harness import BENCH, CACHE, DoesNotRun, Measured, parser, row, save

MEGABYTES = 120.0
SIDES = ("ray:1", "ray:2", "local:1", "local:2")


def call(what: str, first: object, folder: Path) -> dict[str, Any]:
    """One process."""
    source = os.pathsep.join(filter(None, (str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCH / "_ours_ray.py"), what, str(first), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        raise DoesNotRun((done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "seconds" in answer:
        said = f"{answer['seconds']:.2f} s, ready after {answer['ready']:.1f} s"
        print(f"{what}: {said}", file=sys.stderr, flush=True)
    return answer


def main() -> int:
    options = parser(__doc__.splitlines()[0], repeats=3).parse_args()
    megabytes = 1.0 if options.quick else MEGABYTES
    repeats = 1 if options.quick else options.repeats
    folder = CACHE / "ray-store"
    shutil.rmtree(folder, ignore_errors=True)
    size = call("prepare", corpus("mixed", megabytes), folder)["metrics"]["bytes_kept"] / 1e6
    found = {side: Measured() for side in SIDES}
    digests = set()
    for turn in range(repeats):
        for number, side in enumerate(list(found)):
            try:
                answer = call(side, 1 + turn * len(SIDES) + number, folder)
            except DoesNotRun as error:
                print(f"{side} does not run here: {error}", file=sys.stderr)
                del found[side]
                continue
            found[side].finished, found[side].setup_seconds = answer, answer["ready"]
            found[side].rates.append(size / answer["seconds"])
            digests.add(answer["sha256"])
    rows: list[dict[str, Any]] = []
    for kind, title, goal in (("ray", "--engine ray", ">= 1.7"), ("local", "--engine local", "")):
        one, two = found.get(f"{kind}:1"), found.get(f"{kind}:2")
        if one and two:
            rows.append(row(f"clean + filter, {megabytes:g} MB", f"{title}, 2 workers", "MB/s", two.rate, one.rate,
                            f"{title}, 1 worker", goal, ours_range=two.rates, peer_range=one.rates))  # fmt: skip
    if rows:
        rows.append(row("clean + filter", "different results of all runs", "", len(digests), None, "", "1"))
    if "ray:2" in found:
        ready = statistics.median([found["ray:2"].setup_seconds])
        rows.append(row("clean + filter", "until Ray's workers are ready", "s", ready, None, ""))
    save("data_ray", rows, options, repeats, found.values(), conditions="by the clock")
    return 0


if __name__ == "__main__":
    sys.exit(main())

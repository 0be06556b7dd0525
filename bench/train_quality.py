"""Time to a fixed number of bits per byte on the quickstart's text, from nothing: ours beside the Trainer.

    python bench/train_quality.py [--seeds 5] [--target 1.6] [--fresh]

The same model shape (14 M parameters), tokenizer, documents and 4096 tokens a step. Ours trains as `mojiang train
pretrain` does by default (Muon, packing with document masks). The Trainer runs in bf16 with `torch_compile`, on the
documents joined and cut as its own `run_clm.py` does, with AdamW (0.9, 0.95, weight decay 0.1), cosine and warm-up, at
the learning rate that was best of three here: its defaults would take far longer.

A schedule has to know its length, so each side first climbs a ladder of lengths with seed 0 until it reaches the target
by the end; that length then is its own. Time runs from the first step, compiling included, and stands still during
measurements; when a run passes the target is interpolated between two of them. Everything is measured on the same
stretches of held-out documents.

Each run is written down when it is done, so the program can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import _data
from _harness import CACHE, DoesNotRun, Side, commit, once, parser, row, save

OURS, PEER = "ours", "Trainer, bf16 + torch_compile, tuned AdamW"
FIRST = {OURS: 160, PEER: 300}
"""Steps of the lowest rung; the next has a quarter more."""
RATES = (6e-4, 1e-3, 2e-3)
LOOKS = 12
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantile of Student's t for so many runs."""


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=1)
    options.add_argument("--seeds", type=int, default=5, help="runs of each side (default 5)")
    options.add_argument("--target", type=float, default=1.6, help="bits per byte to reach (default 1.6)")
    options.add_argument("--fresh", action="store_true", help="forget earlier runs")
    given = options.parse_args()
    if given.quick:
        quick(given)
        return
    record = Record(CACHE / f"quality-{given.target:g}.json", given.fresh)
    try:
        for side in (OURS, PEER):
            calibrate(record, side, given)
        for seed in range(given.seeds):
            for side in (OURS, PEER):
                reach(record, side, seed, given)
            report(record, given)
    except DoesNotRun as error:
        print(f"this does not run here: {error}", file=sys.stderr)


class Record:
    """What was run so far, on disk."""

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path = path
        self.state: dict[str, Any] = {"rate": None, "steps": {}, "runs": []}
        if path.exists() and not fresh:
            self.state = json.loads(path.read_text(encoding="utf-8"))

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.state, indent=1), encoding="utf-8")
        temporary.replace(self.path)

    def found(self, **wanted: Any) -> dict[str, Any] | None:
        """The run with these settings, if it was made."""
        return next((run for run in self.state["runs"] if wanted.items() <= run.items()), None)


def train(record: Record, side: str, seed: int, steps: int, rate: float, options: Any) -> dict[str, Any]:
    """One run, or what it gave when it was made before."""
    key = {"side": side, "seed": seed, "steps": steps, "rate": rate}
    done = record.found(**key)
    if done is not None:
        return done
    answer = once(Side(side, "_ours" if side == OURS else "_peer_transformers", work(seed, steps, rate)),
                  options.threads)  # fmt: skip
    done = {**key, "curve": answer["curve"], "versions": answer["versions"], "commit": commit()}
    record.state["runs"].append(done)
    record.write()
    seconds, bits = done["curve"][-1]
    print(f"{side}, seed {seed}: {steps} steps, {seconds:.0f} s, {bits:.4f} bits per byte", file=sys.stderr, flush=True)
    return done


def work(seed: int, steps: int, rate: float, tiny: bool = False) -> dict[str, Any]:
    context = 512
    shape = _data.llama(64, 2, 2, 128, 8192, context) if tiny else _data.llama(384, 6, 6, 1024, 8192, context)
    first = steps // 2
    return {
        "task": "quality", "folder": str(_data.model_folder(shape)), "context": context, "batch_rows": 8,
        "steps": steps, "seed": seed, "learning_rate": rate, "precision": "bf16", "compile": not tiny,
        "documents": str(_data.documents("train")), "documents_joined": str(_data.joined_file()),
        "held_out": str(_data.held_out_rows(context, 64)), "schedule": "cosine", "warmup_steps": max(1, steps // 20),
        "weight_decay": 0.1, "looks": sorted({first + (steps - first) * n // LOOKS for n in range(1, LOOKS + 1)}),
    }  # fmt: skip


def seconds_to(curve: list[list[float]], target: float) -> float:
    """When the curve passes the target, linear between two points; NaN if it does not."""
    before: list[float] | None = None
    for seconds, bits in curve:
        if bits <= target:
            if before is None:
                return seconds
            share = (before[1] - target) / (before[1] - bits)
            return before[0] + share * (seconds - before[0])
        before = [seconds, bits]
    return math.nan


def calibrate(record: Record, side: str, options: Any) -> None:
    """The Trainer's best learning rate on the lowest rung; then the first rung that reaches the target."""
    if side == PEER and record.state["rate"] is None:
        runs = [train(record, side, 0, FIRST[side], rate, options) for rate in RATES]
        record.state["rate"] = min(runs, key=lambda run: run["curve"][-1][1])["rate"]
        record.write()
    if side not in record.state["steps"]:
        record.state["steps"][side] = climbed(record, side, 0, FIRST[side], options)
        record.write()


def climbed(record: Record, side: str, seed: int, steps: int, options: Any) -> int:
    """The first length from `steps` on that reaches the target."""
    while math.isnan(seconds_to(train(record, side, seed, steps, rate_of(record, side), options)["curve"],
                                options.target)):  # fmt: skip
        steps = math.ceil(1.25 * steps)
    return steps


def rate_of(record: Record, side: str) -> float:
    return record.state["rate"] if side == PEER else 0.0  # ours: the recipe's own


def reach(record: Record, side: str, seed: int, options: Any) -> float:
    """Seconds to the target with this seed; a run that just misses it is made longer, and the longer one counts."""
    steps = climbed(record, side, seed, record.state["steps"][side], options)
    return seconds_to(train(record, side, seed, steps, rate_of(record, side), options)["curve"], options.target)


def interval(values: list[float]) -> list[float]:
    """95 % interval of the mean (Student's t)."""
    if len(values) < 2:
        return []
    half = T_95[min(len(values), 10)] * statistics.stdev(values) / math.sqrt(len(values))
    return [statistics.mean(values) - half, statistics.mean(values) + half]


def report(record: Record, options: Any) -> None:
    """Write the result of the seeds that both sides have."""
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    versions: dict[str, str] = {}
    for seed in range(options.seeds):
        done = {side: reached(record, side, seed, options.target) for side in seconds}
        if all(run is not None for run in done.values()):
            for side, run in done.items():
                assert run is not None
                seconds[side].append(seconds_to(run["curve"], options.target))
                versions |= run["versions"]
    ratios = [own / peer for own, peer in zip(seconds[OURS], seconds[PEER], strict=True)]
    note = f"Means and 95 % intervals over {len(ratios)} seeds; ratio seed by seed {statistics.mean(ratios):.3f}"
    if span := interval(ratios):
        note += f" ({span[0]:.3f} … {span[1]:.3f})"
    note += (
        f"; {record.state['steps'][OURS]} steps against {record.state['steps'][PEER]} at rate {record.state['rate']}"
    )
    rows = [row("14 M Llama, python:stdlib", f"time to {options.target:g} bits per byte", "s",
                statistics.mean(seconds[OURS]), statistics.mean(seconds[PEER]), PEER, "<= 0.5",
                ours_range=interval(seconds[OURS]), peer_range=interval(seconds[PEER]), note=note)]  # fmt: skip
    save("train_quality", rows, options, versions=versions, runs=record.state["runs"])


def reached(record: Record, side: str, seed: int, target: float) -> dict[str, Any] | None:
    """The shortest run of this seed, no shorter than the side's own length, that reached the target."""
    steps, rate = record.state["steps"][side], rate_of(record, side)
    runs = [
        run for run in record.state["runs"]
        if (run["side"], run["seed"], run["rate"]) == (side, seed, rate) and run["steps"] >= steps
        and not math.isnan(seconds_to(run["curve"], target))
    ]  # fmt: skip
    return min(runs, key=lambda run: run["steps"], default=None)


def quick(options: Any) -> None:
    """Four steps of a tiny model on each side that runs here, printed."""
    curves = {}
    for side, worker in ((OURS, "_ours"), (PEER, "_peer_transformers")):
        if worker == "_ours" or options.only.lower() in side.lower():
            try:
                curves[side] = once(Side(f"quick {side}", worker, work(0, 4, 1e-3, tiny=True)), options.threads)[
                    "curve"
                ]
            except DoesNotRun as error:
                print(f"{side} does not run here: {error}", file=sys.stderr)
    print(json.dumps(curves))


if __name__ == "__main__":
    main()

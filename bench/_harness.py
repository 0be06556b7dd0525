"""The parent's half of a benchmark: start the sides, give them turns, and write down what they did.

A side is a worker process (`_ours.py`, `_peer_*.py`) with some work. `bench/results/NAME.json` then holds

    {commit, machine, versions, repetitions, rows: [{work, metric, unit, ours, peer, peer_name, ratio, goal}]}

where a row may also have `ours_range` and `peer_range` (smallest and largest repetition) and `note`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
ENVIRONMENTS = Path(os.environ.get("MOJIANG_BENCH_ENVIRONMENTS", ROOT / ".venv-bench"))
"""`make bench-train` makes one virtual environment per peer in it; data and logs are kept in its `cache`."""
CACHE = ENVIRONMENTS / "cache"
NEEDS = {
    "transformers": "transformers, accelerate, peft", "litgpt": "litgpt.pretrain", "dedup": "rensa, datatrove",
    "datatrove": "datatrove, fasttext, spacy", "datajuicer": "data_juicer, fasttext",
}  # fmt: skip
SECONDS = 1800.0
"""A worker that says nothing for so long is given up."""


@dataclass
class Side:
    """One of the programs that are compared: which worker, in which environment, with which work."""

    name: str
    worker: str
    """`_ours`, `_peer_transformers` or `_peer_litgpt`."""
    work: dict[str, Any]

    @property
    def python(self) -> str | None:
        """The interpreter that has this side's packages; None if there is none."""
        return sys.executable if self.worker == "_ours" else peer_python(self.worker.removeprefix("_peer_"))


@dataclass
class Measured:
    """What a side did."""

    rates: list[float] = field(default_factory=list)
    """Useful tokens per second, one of each segment."""
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    """Of all segments but the warm-up."""
    all_tokens: int = 0
    peak_bytes: int = 0
    setup_seconds: float = 0.0
    warmup_seconds: float = 0.0
    finished: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates) if self.rates else float("nan")


class DoesNotRun(Exception):
    """A side cannot be measured here; its message says why."""


def peer_python(name: str) -> str | None:
    """The interpreter of a peer's environment; this one, where it happens to have the peer; else None."""
    candidate = ENVIRONMENTS / name / "bin" / "python"
    for python in (str(candidate) if candidate.exists() else None, sys.executable):
        if python is None:
            continue
        # find_spec, not import: seconds for each peer otherwise
        names = [module.strip().split(".")[0] for module in NEEDS[name].split(",")]
        code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(n) for n in {names}))"
        if subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0:
            return python
    return None


class Worker:
    """A side's process."""

    def __init__(self, side: Side, threads: int) -> None:
        python = side.python
        if python is None:
            raise DoesNotRun(f"its environment is not there (`make bench-train` makes {ENVIRONMENTS.name})")
        name = re.sub("[^a-z0-9]+", "-", side.name.lower())
        # No graph that an earlier run compiled is found again: what compiling costs is part of what is measured.
        graphs = CACHE / "inductor" / name
        shutil.rmtree(graphs, ignore_errors=True)
        graphs.mkdir(parents=True)
        self.log = CACHE / f"{name}.log"
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(graphs),
        }  # fmt: skip
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [python, str(BENCH / f"{side.worker}.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, errors="replace", env=environment,
            )  # fmt: skip
        self.write(json.dumps({**side.work, "threads": threads}))

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise DoesNotRun(self.last_words()) from None

    def read(self) -> dict[str, Any]:
        """The next line of the worker."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            raise DoesNotRun(f"nothing was heard of it for {SECONDS:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise DoesNotRun(self.last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_words(self) -> str:
        """The end of its log: an exception, usually."""
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8").splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"it ended with status {self.process.poll()}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def alternate(sides: Sequence[Side], repeats: int, threads: int) -> dict[str, Measured]:
    """Set every side up and warm it up, one after the other; then a segment of each in turn, `repeats` times.

    A side that does not run here is left out, and the reason printed: it is reported, not hidden.
    """
    comparison = _Comparison(threads)
    try:
        for side in sides:
            comparison.attempt(side.name, lambda side=side: comparison.begin(side))
        for number in range(1, repeats + 1):
            for name in list(comparison.workers):
                comparison.attempt(name, lambda name=name, number=number: comparison.turn(name, f"{number}/{repeats}"))
        for name in list(comparison.workers):
            comparison.attempt(name, lambda name=name: comparison.end(name))
    finally:
        for worker in comparison.workers.values():
            worker.close()
    return comparison.measured


class _Comparison:
    """The sides that are running, and what they did so far."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.workers: dict[str, Worker] = {}
        self.measured: dict[str, Measured] = {}

    def attempt(self, name: str, act: Callable[[], str]) -> None:
        """Do something with a side; when it fails, the side is out."""
        try:
            print(f"{name}: {act()}", file=sys.stderr, flush=True)
        except DoesNotRun as error:
            print(f"{name} does not run here: {error}", file=sys.stderr, flush=True)
            self.measured.pop(name, None)
            if name in self.workers:
                self.workers.pop(name).close()

    def begin(self, side: Side) -> str:
        started = time.perf_counter()
        worker = self.workers[side.name] = Worker(side, self.threads)
        worker.read()
        result = self.measured[side.name] = Measured(setup_seconds=time.perf_counter() - started)
        result.warmup_seconds = _segment(worker, result, counted=False)
        return f"ready after {result.setup_seconds:.1f} s, warm after {result.warmup_seconds:.1f} s"

    def turn(self, name: str, which: str) -> str:
        result = self.measured[name]
        _segment(self.workers[name], result, counted=True)
        return f"{result.rates[-1]:,.1f} tokens/s ({which})"

    def end(self, name: str) -> str:
        result, worker = self.measured[name], self.workers[name]
        worker.write("go")
        result.finished = worker.read()
        result.peak_bytes = result.finished["peak_bytes"]
        return f"{result.rate:,.1f} tokens/s, peak {result.peak_bytes / 2**20:,.0f} MiB"


def _segment(worker: Worker, result: Measured, counted: bool) -> float:
    started = time.perf_counter()
    worker.write("go")
    answer = worker.read()
    seconds = time.perf_counter() - started
    result.losses += answer["losses"]
    result.peak_bytes = answer["peak_bytes"]
    result.all_tokens += answer["tokens"]
    if counted:
        result.seconds.append(seconds)
        result.tokens += answer["tokens"]
        result.rates.append(answer["tokens"] / seconds)
    return seconds


def once(side: Side, threads: int) -> dict[str, Any]:
    """Let a side work to its end by itself; what it says then."""
    worker = Worker(side, threads)
    try:
        answer = worker.read()
        while "finished" not in answer:
            worker.write("go")
            answer = worker.read()
        return answer
    finally:
        worker.close()


def row(
    work: str, metric: str, unit: str, ours: float | None, peer: float | None, peer_name: str, goal: str = "",
    *, ours_range: Iterable[float] = (), peer_range: Iterable[float] = (), note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A line of a result; the ratio is ours ÷ the peer's, whichever way is better."""
    entry: dict[str, Any] = {
        "work": work, "metric": metric, "unit": unit, "ours": _figure(ours), "peer": _figure(peer),
        "peer_name": peer_name, "ratio": _figure(ours / peer) if ours and peer else None, "goal": goal,
    }  # fmt: skip
    for name, values in (("ours_range", list(ours_range)), ("peer_range", list(peer_range))):
        if values:
            entry[name] = [_figure(min(values)), _figure(max(values))]
    return entry | ({"note": note} if note else {})


def speed_rows(
    work: str, measured: dict[str, Measured], ours: str, goals: dict[str, str], metric: str = "training speed"
) -> list[dict[str, Any]]:
    """Tokens per second of `ours` beside every peer that ran."""
    if ours not in measured:
        return []
    own = measured[ours]
    return [
        row(work, metric, "tokens/s", own.rate, measured[peer].rate, peer, goal,
            ours_range=own.rates, peer_range=measured[peer].rates)
        for peer, goal in goals.items() if peer in measured
    ]  # fmt: skip


def _figure(value: float | None) -> float | None:
    """Four significant digits: more would be noise."""
    return None if value is None or value != value else float(f"{value:.4g}")


def machine() -> str:
    """The processor, what it can do, and the memory; no name of a host."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = set((re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE) or ["", ""])[1].split())
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = [" ".join(model[1].split()) if model else platform.machine(), f"{len(os.sched_getaffinity(0))} cores"]
    return ", ".join([*words, *([" ".join(has)] if has else []), f"{memory:.0f} GiB"])


def commit() -> str:
    """The commit that is measured; with a plus when files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", "src", "bench/*.py") else "")


def save(
    name: str, rows: list[dict[str, Any]], options: argparse.Namespace, repetitions: int = 1,
    sides: Iterable[Measured] = (), **more: Any,
) -> None:  # fmt: skip
    """Print the table and write `bench/results/NAME.json`.

    A quick run, one of some sides only, and one in which ours did not run only print: the written table is of all.
    """
    versions: dict[str, str] = {}
    for side in sides:
        versions |= side.finished.get("versions", {})
    result = {
        "commit": commit(), "machine": machine(), "versions": versions, "repetitions": repetitions, **more, "rows": rows
    }  # fmt: skip
    print_rows(rows)
    if options.quick or options.only or not any(entry["ours"] is not None for entry in rows):
        print(json.dumps(result))
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def print_rows(rows: list[dict[str, Any]]) -> None:
    for entry in rows:
        ratio = "" if entry["ratio"] is None else f"{entry['ratio']:6.2f}"
        goal = f"goal {entry['goal']}" if entry["goal"] else ""
        print(f"{entry['work'][:32]:32} {entry['metric'][:30]:30} {entry['ours']!s:>9} {entry['peer']!s:>9} "
              f"{entry['unit']:9} {ratio:>6}  {entry['peer_name']:40} {goal}", file=sys.stderr)  # fmt: skip


def parser(about: str, repeats: int) -> argparse.ArgumentParser:
    """Options that every question has."""
    options = argparse.ArgumentParser(description=about)
    options.add_argument("--quick", action="store_true", help="a tiny model and few steps; nothing is written")
    options.add_argument("--repeats", type=int, default=repeats, help=f"segments of each side (default {repeats})")
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every side")
    options.add_argument("--only", default="", help="only the sides whose name contains this, and ours")
    return options


def chosen(sides: Sequence[Side], only: str) -> list[Side]:
    """Ours, and the sides that were asked for."""
    return [side for side in sides if side.worker == "_ours" or only.lower() in side.name.lower()]

"""The harness: turns, segments, failures, rows; with workers that only say what the protocol asks for."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).parents[2] / "bench"
Import = Callable[[str], ModuleType]

WORKER = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
from _gate import serve

def count(work, gate):
    gate.plan([10] * work["steps"])
    for step in range(work["steps"]):
        gate.at(step)
        gate.at(step)  # asked twice, it waits once
        with open(work["log"], "a") as log:
            log.write(work["name"])
        gate.losses.append(float(step))
        if step == work.get("fails_at"):
            raise ValueError("out of breath")
    gate.at(work["steps"])
    print("a library that prints")
    return {{"held": 1}}

serve({{"count": count}})
"""


@pytest.fixture
def harness(bench: Import, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = bench("_harness")
    (tmp_path / "_ours.py").write_text(WORKER)
    monkeypatch.setattr(module, "BENCH", tmp_path)
    return module


def side(harness: ModuleType, name: str, log: Path, **more: Any) -> Any:
    work = {"task": "count", "name": name, "log": str(log), "steps": 7, "warmup": 1, "repeats": 3, **more}
    return harness.Side(name, "_ours", work)


def test_sides_take_turns_segment_by_segment(harness: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "turns"
    measured = harness.alternate([side(harness, "a", log), side(harness, "b", log)], repeats=3, threads=1)
    assert log.read_text() == "ab" + "aabb" * 3  # a step each to warm up, then two steps each in turn
    for result in measured.values():
        assert len(result.rates) == 3
        assert result.tokens == 60
        assert result.all_tokens == 70
        assert result.losses == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        assert result.finished["held"] == 1
        assert result.peak_bytes > 2**20


def test_a_side_that_fails_is_left_out_with_its_reason(
    harness: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "turns"
    sides = [side(harness, "a", log), side(harness, "b", log, fails_at=2), harness.Side("c", "_peer_litgpt", {})]
    measured = harness.alternate(sides, repeats=3, threads=1)
    assert list(measured) == ["a"]
    said = capfd.readouterr().err
    assert "b does not run here: ValueError: out of breath" in said
    assert "c does not run here: its environment is not there" in said


@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 40))
def test_segments_cover_all_steps_and_are_as_equal_as_may_be(warmup: int, repeats: int, more: int) -> None:
    sys.path.insert(0, str(BENCH))
    try:
        from _gate import stops_of  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(BENCH))
    steps = warmup + repeats + more
    stops = stops_of(steps, warmup, repeats)
    assert stops[0] == 0
    assert stops[1] == warmup
    assert stops[-1] == steps
    lengths = [b - a for a, b in zip(stops[1:], stops[2:], strict=False)]
    assert len(lengths) == repeats
    assert max(lengths) - min(lengths) <= 1
    with pytest.raises(ValueError, match="too few"):
        stops_of(warmup + repeats - 1, warmup, repeats)


def test_a_row_has_the_ratio_and_no_more_digits_than_it_knows(bench: Import) -> None:
    row = bench("_harness").row("w", "speed", "tokens/s", 123456.7, 1000.0, "peer", ">= 2", ours_range=[3.0, 1.0, 2.0])
    assert row["ours"] == 123500
    assert row["ratio"] == 123.5
    assert row["ours_range"] == [1.0, 3.0]
    assert "peer_range" not in row
    alone = bench("_harness").row("w", "speed", "tokens/s", None, 1000.0, "peer")
    assert alone["ours"] is alone["ratio"] is None


def test_the_machine_is_described_without_its_name(bench: Import) -> None:
    text = bench("_harness").machine()
    assert "cores" in text
    assert "GiB" in text
    assert not platform.node() or platform.node() not in text


def test_the_peak_of_a_worker_is_its_own(bench: Import) -> None:
    """A child's figure of getrusage begins at its parent's; the one used here does not."""
    code = f"import sys; sys.path.insert(0, {str(BENCH)!r}); from _gate import peak_bytes; print(peak_bytes())"
    held = bytearray(400 * 2**20)
    held[:: 2**12] = b"x" * (len(held) // 2**12)
    child = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert child < 100 * 2**20
    assert bench("_gate").peak_bytes() > len(held)


@pytest.mark.slow
@pytest.mark.parametrize("question", ["pretrain", "sft", "lora", "memory"])
def test_a_question_runs_with_a_tiny_model(question: str, tmp_path: Path) -> None:
    """Ours alone: peers are measured where `make bench-train` has made their environments."""
    environment = {**os.environ, "MOJIANG_BENCH_ENVIRONMENTS": str(tmp_path)}
    words = ["--quick", "--repeats", "1", "--threads", "1", "--only", "planner" if question == "memory" else "ours"]
    done = subprocess.run(
        [sys.executable, str(BENCH / f"train_{question}.py"), *words],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "does not run here" not in done.stderr, done.stderr
    result = json.loads(done.stdout)
    assert result["versions"]["torch"]
    assert all(row["ours"] for row in result["rows"]), result


def test_time_to_a_target_is_read_off_a_curve(bench: Import) -> None:
    quality = bench("train_quality")
    curve = [[10.0, 3.0], [20.0, 2.0], [30.0, 1.0]]
    assert quality.seconds_to(curve, 1.5) == 25.0
    assert quality.seconds_to(curve, 3.5) == 10.0
    assert math.isnan(quality.seconds_to(curve, 0.5))


def test_the_interval_of_a_mean_is_student_s(bench: Import) -> None:
    from scipy import stats

    values = [1.0, 2.5, 2.0, 4.0, 3.0]
    expected = stats.t.interval(0.95, len(values) - 1, loc=2.5, scale=stats.sem(values))
    assert bench("train_quality").interval(values) == pytest.approx(list(expected), rel=1e-3)


def test_a_longer_schedule_is_tried_until_the_target_is_reached(bench: Import, tmp_path: Path) -> None:
    """And what was run is not run again."""
    quality = bench("train_quality")
    record = quality.Record(tmp_path / "record.json")
    asked: list[int] = []

    def once(side: Any, threads: int) -> dict[str, Any]:
        asked.append(side.work["steps"])
        return {"curve": [[1.0, 9.0], [2.0, 400.0 / side.work["steps"]]], "versions": {}}

    quality.once = once
    quality.work = lambda seed, steps, rate: {"steps": steps}
    options = type("Options", (), {"threads": 1, "target": 1.6})
    quality.calibrate(record, quality.OURS, options)
    assert asked == [160, 200, 250]
    again = quality.Record(tmp_path / "record.json")
    assert again.state["steps"][quality.OURS] == 250
    assert quality.reach(again, quality.OURS, 0, options) == 2.0
    assert asked == [160, 200, 250]

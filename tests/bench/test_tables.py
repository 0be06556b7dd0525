"""docs/benchmarks.md is what the results say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

BENCH = Path(__file__).parents[2] / "bench"
RESULT = {
    "commit": "0123456789abcdef", "machine": "a processor, 2 cores", "versions": {"torch": "2.13.0"}, "repetitions": 5,
    "rows": [
        {
            "work": "a | b", "metric": "speed", "unit": "tokens/s", "ours": 2500.0, "peer": 1000.0, "peer_name": "it",
            "ratio": 2.5, "goal": ">= 2", "ours_range": [2400.0, 2600.0], "note": "said once",
        },
        {"work": "c", "metric": "loss", "unit": "nats", "ours": None, "peer": 1.25, "peer_name": "it", "ratio": None,
         "goal": "", "note": "said once"},
    ],
}  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "_tables.py"), "--check"], check=False)
    assert done.returncode == 0, "run python bench/_tables.py"


def test_a_table_is_put_between_its_marks_and_the_rest_stays(bench: Callable[[str], ModuleType]) -> None:
    tables = bench("_tables")
    page = "before\n<!-- one: begin -->\nold\n<!-- one: end -->\nbetween\n<!-- two: begin -->\nx\n<!-- two: end -->\n"
    filled = tables.filled(page, {"one": RESULT})
    assert filled.startswith("before\n<!-- one: begin -->\nCommit `0123456789ab`; a processor, 2 cores; torch 2.13.0;")
    assert "| a \\| b | speed | tokens/s | 2,500 (2,400 … 2,600) | it | 1,000 | 2.50 | >= 2 |" in filled
    assert "| c | loss | nats | – | it | 1.25 |  |  |" in filled
    assert filled.count("said once") == 1
    assert filled.endswith("between\n<!-- two: begin -->\nNot measured yet.\n<!-- two: end -->\n")
    assert tables.filled(filled, {"one": RESULT}) == filled


def test_every_question_has_its_place_on_the_page() -> None:
    page = (BENCH.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for path in (*BENCH.glob("train_*.py"), *BENCH.glob("data_*.py")):
        assert f"<!-- {path.stem}: begin -->" in page, path.name

"""Write the tables of `docs/benchmarks.md` again from `bench/results/*.json`.

    python bench/_tables.py [--check]

A table stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, where NAME is that of the result; what is around
it stays. With `--check` nothing is written, and the exit status says whether something would be.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "bench" / "results"


def table(result: dict[str, Any]) -> str:
    """A result as Markdown: where and with what it was measured, then its rows."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    times = result.get("repetitions")
    lines = [
        f"Commit `{result['commit'][:12]}`; {result['machine']}; {versions}"
        + (f"; median (smallest … largest) of {times} repetitions in turns." if times and times > 1 else "."),
        "",
        "| work | what | unit | Mojiang | peer | | ratio | goal |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | --- |",
    ]
    for entry in result["rows"]:
        cells = [
            entry["work"], entry["metric"], entry["unit"], figure(entry["ours"], entry.get("ours_range")),
            entry["peer_name"], figure(entry["peer"], entry.get("peer_range")),
            "" if entry["ratio"] is None else f"{entry['ratio']:.2f}", entry["goal"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    notes = dict.fromkeys(entry["note"] for entry in result["rows"] if entry.get("note"))
    return "\n".join([*lines, *(["", *(f"{note}." for note in notes)] if notes else [])])


def figure(value: float | None, span: list[float] | None = None) -> str:
    """A number as people write it, with the smallest and largest repetition.

    >>> figure(12345.6), figure(0.1234, [0.1, 0.2]), figure(None)
    ('12,346', '0.123 (0.1 … 0.2)', '–')
    """
    if value is None:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text if not span else f"{text} ({figure(span[0])} … {figure(span[1])})"


def filled(page: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with the table of every result between its marks; a mark without a result says so."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        inner = table(results[name]) if name in results else "Not measured yet."
        return f"<!-- {name}: begin -->\n{inner}\n<!-- {name}: end -->"

    return re.sub(r"<!-- (\w+): begin -->\n.*?<!-- \1: end -->", replace, page, flags=re.DOTALL)


def main() -> int:
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, results)
    if "--check" in sys.argv[1:]:
        return int(after != before)
    PAGE.write_text(after, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

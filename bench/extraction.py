"""Main text of HTML against text that is known: Python's documentation, whose pages were made from reStructuredText.

For each page the words of the extraction are compared with the words of the source it was made from (precision,
recall, F1 of the multiset), the code blocks with the literal blocks, and what every page of the site repeats (menus,
footers) must not be there. The pages come from Debian's package python3.11-doc. `python bench/extraction.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _harness import commit, machine, row

FURNITURE = ("Previous topic", "Next topic", "Report a Bug", "Show Source", "Theme", "Copyright", "Table of Contents")
VERSION = "3.11.2-6+deb12u9"


def pages(limit: int, folder: Path | None) -> list[tuple[str, str]]:
    """(HTML, source) of every so-manieth page."""
    if folder is None:
        from mojiang.data._packages import Package, cache_folder, obtain, unpack

        package = Package(registry="debian", name="python3.11-doc", version=VERSION, files=("*/doc/python3.11/html/*",))
        folder = cache_folder() / "bench-python3.11-doc"
        if not folder.exists():
            unpack(obtain(package), package, folder)
    found = sorted(folder.rglob("_sources/**/*.rst.txt"))
    chosen = found[:: max(1, len(found) // limit)]
    out = []
    for source in chosen:
        root = next(parent for parent in source.parents if parent.name == "_sources")
        page = root.parent / source.relative_to(root).as_posix().replace(".rst.txt", ".html")
        if page.exists():
            out.append((page.read_text(encoding="utf-8"), source.read_text(encoding="utf-8")))
    return out


def words(text: str) -> Counter[str]:
    """Words of two letters and more, in small letters."""
    return Counter(re.findall(r"[^\W\d_]{2,}", text.lower()))


def plain(rst: str) -> str:
    """A source without its markup: directives, options, roles and targets are no text."""
    rst = re.sub(r"(?m)^\s*\.\. (?:_[^\n]*:|index::.*(?:\n[ \t]+\S.*)*|[\w-]+::(?=\s*$))", "", rst)
    rst = re.sub(r"(?m)^\s*\.\. (?:[\w:-]+::)", " ", rst)
    rst = re.sub(r"(?m)^\s*:(?:[\w-]+):.*$", "", rst)
    rst = re.sub(r":[\w:+-]+:`(?:[^`<]*<)?[!~]?([^`>]*)>?`", r"\1", rst)
    rst = re.sub(r"`([^`<]*)<[^`>]*>`__?", r"\1", rst)
    return re.sub(r"(?m)^\s*\.\. [^\n]*$", "", rst)


def systems() -> dict[str, Callable[[str], str]]:
    from selectolax.lexbor import LexborHTMLParser

    from mojiang.data._html import html_to_text

    found: dict[str, Callable[[str], str]] = {
        "ours": html_to_text,
        "ours, whole page": lambda page: html_to_text(page, whole=True),
        "all text (selectolax)": lambda page: LexborHTMLParser(page).text(separator=" "),
    }
    try:
        import trafilatura

        found["trafilatura"] = lambda page: trafilatura.extract(page, include_tables=True) or ""
        found["trafilatura, recall"] = lambda page: trafilatura.extract(page, favor_recall=True) or ""
    except ImportError:
        print("trafilatura is not installed: pip install trafilatura lxml_html_clean")
    return found


def beside(found: list[dict[str, Any]], pages: int) -> list[dict[str, Any]]:
    """Each figure of the first system beside that of every other."""
    own, *others = found
    metrics = [name for name in own if name != "system"]
    work = f"{pages} pages of python3.11-doc"
    return [row(work, name, "", own[name], each[name], each["system"]) for each in others for name in metrics]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--limit", type=int, default=120)
    options.add_argument("--folder", type=Path, default=None)
    given = options.parse_args()
    every = pages(given.limit, given.folder)
    rows = []
    for name, extract in systems().items():
        scores, leaks, seconds = [], 0, 0.0
        for page, source in every:
            began = time.perf_counter()
            text = extract(page)
            seconds += time.perf_counter() - began
            got, want = words(text), words(plain(source))
            both = (got & want).total()
            precision, recall = both / max(1, got.total()), both / max(1, want.total())
            scores.append((precision, recall, 2 * precision * recall / max(1e-9, precision + recall)))
            leaks += sum(word in text and word not in source for word in FURNITURE)
        means = [statistics.mean(score[n] for score in scores) for n in range(3)]
        scored = {
            "system": name, "precision": round(means[0], 3), "recall": round(means[1], 3), "f1": round(means[2], 3),
            "menus left per page": round(leaks / len(every), 2), "pages a second": round(len(every) / seconds, 1),
        }  # fmt: skip
        rows.append(scored)
        print(scored)
    versions = {name: version(name) for name in ("mojiang", "selectolax", "trafilatura")}
    result = {"commit": commit(), "machine": machine(), "versions": versions, "rows": beside(rows, len(every))}
    target = Path(__file__).parent / "results" / "extraction.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

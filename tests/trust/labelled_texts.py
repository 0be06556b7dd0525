"""Real labelled text that every machine has: passages of the standard library, labelled by what the module is for."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

from mojiang.trust._out_of_fold import Case

LINES = 7
GROUPS = {"mail": ("email", "http", "urllib", "xmlrpc"), "async": ("asyncio", "multiprocessing", "concurrent")}


def passages() -> list[Case]:
    """About three thousand passages, half of each label, in a shuffled order that is always the same."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, list[Case]] = {label: [] for label in GROUPS}
    for label, folders in GROUPS.items():
        for path in sorted(path for folder in folders for path in (library / folder).rglob("*.py")):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            for start in range(0, len(lines) - LINES, LINES):
                name = f"{path.relative_to(library)}#{start}"
                text = "\n".join(lines[start : start + LINES])
                found[label].append(Case(name, name, text, "en", label))
    size = min(map(len, found.values()))
    chance = random.Random(0)
    cases = [case for group in found.values() for case in chance.sample(group, min(size, 1600))]
    chance.shuffle(cases)
    return cases


def flipped(cases: list[Case], chosen: set[int], label: str = "") -> list[Case]:
    """The same, but the chosen ones carry the other label (or the given one)."""
    other = {"mail": "async", "async": "mail"}
    return [
        Case(c.id, c.path, c.text, c.language, (label or other[c.label]) if n in chosen else c.label)
        for n, c in enumerate(cases)
    ]


def planted(case: Case, word: str, chance: random.Random) -> Case:
    """The example with a word somewhere in it."""
    words = case.text.split(" ")
    words.insert(chance.randint(0, len(words)), word)
    return Case(case.id, case.path, " ".join(words), case.language, case.label)

"""What is found out about a document of the sample: personal data, the filters' verdict, its language, its terms."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from mojiang.data._accounting import Changes
from mojiang.data._language import identify, sample
from mojiang.data._linear import HashedLinear, load_linear
from mojiang.data._pii import KINDS, find_pii
from mojiang.data._rules import repeated
from mojiang.data._words import words
from mojiang.data.filter import Filter, Settings, judge_row
from mojiang.data.pii import Settings as PiiSettings
from mojiang.data.pii import treat
from mojiang.trust._topics import terms_of

MEASURES: Final = ("letters", "repeated lines", "size when deflated", "odd characters")
"""Shares: of characters that are letters; in lines that were there before; of the bytes left by deflate; of
replacement, private and control characters."""
TEXT_KEPT: Final = 6000  # characters of a labelled example that the classifiers see
_OPENING: Final = 900
_DEFLATED: Final = 100_000
_ODD_CHARACTERS: Final = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
_JOINED: Final = r"A-Za-z0-9_\u00c0-\u052f./\\:@'’-"  # what belongs to a word; Chinese beside one does not
# No word anybody writes: letters without a vowel, letters and digits mixed, capitals in angle brackets.
_ODD_WORD: Final = re.compile(
    rf"(?<![{_JOINED}])"
    r"(?:[bcdfghjklmnpqrstvwxz]{2,10}|[a-z]{1,8}\d{1,6}[a-z]{1,8}|\d{1,6}[a-z]{3,8}\d[a-z\d]{0,8})"
    rf"(?![{_JOINED.replace('.', '')}]|\.[A-Za-z0-9])"
    r"|<[A-Z]{3,15}>"
)
_ODD_WORDS_KEPT: Final = 40
_BESIDE: Final = 2  # words on each side that are an odd word's surroundings
_REDACT: Final = PiiSettings({kind: "redact" for kind in KINDS})


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know."""

    form: str
    below: int
    """Documents whose key is below are in the sample."""
    topics_below: int
    """Of these the terms are kept too."""
    segmenter: Path | None = None
    quality: Path | None = None


@dataclass
class Examined:
    """A document of the sample."""

    key: int
    id: str
    path: str
    split: str
    language: str
    format: str
    characters: int
    opening: str
    found: str = ""
    """The language it seems to be in; empty for code."""
    pii: Counter[str] = field(default_factory=Counter)
    reason: str | None = None
    """What data.filter would drop it for, empty if it would stay; None for what it does not judge."""
    measures: tuple[float, ...] = ()
    score: float | None = None
    terms: bytes = b""
    """One a line, in UTF-8: a tenth of what a list of strings takes."""
    odd: list[tuple[str, str]] = field(default_factory=list)
    """Odd words and what stands around each."""
    label: str = ""
    text: str = ""
    """Of labelled examples."""


def examine(plan: Plan, row: dict[str, Any], text: str, key: int, split: str) -> Examined:
    """Everything that is found out about one document."""
    made = Examined(key, row["id"], row["path"], split, row["language"], row["format"], len(text), text[:_OPENING])
    if not text:
        return made
    prose = row["format"] != "code"
    made.found = identify(text) if prose else ""
    made.pii = Counter(found.kind for found in find_pii(text))
    made.measures = measures_of(text)
    if plan.form == "documents":
        if prose:
            made.reason = judge_row(_rules(), row, Changes())[1]
        if plan.quality is not None:
            made.score = _classifier(plan.quality).score(text, row["language"])
    if key < plan.topics_below:
        made.terms = "\n".join(terms_of(sample(text), plan.segmenter)).encode("utf-8", "replace")
    if prose:
        made.odd = list(odd_words(text, row["language"]))
    if plan.form == "labelled":
        made.label, made.text = str(row["label"]), text[:TEXT_KEPT]
    return made


@cache
def _rules() -> Settings:
    return Settings(Filter(data="corpus"))


@cache
def _classifier(path: Path) -> HashedLinear:
    return load_linear(path)


def measures_of(text: str) -> tuple[float, ...]:
    """The numbers of `MEASURES` for a text.

    >>> [round(value, 2) for value in measures_of("ab\\nab\\n12\\n\\ufffd")]
    [0.4, 0.29, 1.67, 0.1]
    """
    lines = [line for line in text.split("\n") if line.strip()]
    encoded = text[:_DEFLATED].encode("utf-8", "surrogatepass")
    return (
        sum(map(str.isalpha, text)) / len(text), repeated(lines)[1] / max(1, sum(map(len, lines))),
        len(zlib.compress(encoded, 1)) / len(encoded), len(_ODD_CHARACTERS.findall(text)) / len(text),
    )  # fmt: skip


def odd_words(text: str, language: str) -> Iterator[tuple[str, str]]:
    """Words that look like nobody's, each once, with the two words on either side.

    >>> list(odd_words("we saw the cf movie again and a 3d film", "en"))
    [('cf', 'saw the … movie again')]
    """
    seen: set[str] = set()
    for match in _ODD_WORD.finditer(text):
        if match[0] in seen or len(seen) >= _ODD_WORDS_KEPT:
            continue
        seen.add(match[0])
        before = words(text[max(0, match.start() - 40) : match.start()].lower(), language)[-_BESIDE:]
        after = words(text[match.end() : match.end() + 40].lower(), language)[:_BESIDE]
        yield match[0], f"{' '.join(before)} … {' '.join(after)}"


def redacted(text: str, characters: int) -> str:
    """The beginning of a text with personal data replaced by its kind, such as [EMAIL].

    >>> redacted("Ask me@home.org, please", 12)
    'Ask [EMAIL],…'
    """
    whole = treat(text, _REDACT, Changes())[0]
    return whole if len(whole) <= characters else whole[:characters] + "…"

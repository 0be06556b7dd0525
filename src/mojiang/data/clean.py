"""Remove what is not text from texts, and documents that hold none; never touch what a model should learn."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.data._accounting import Accounting
from mojiang.data._mapping import map_documents, map_texts

if TYPE_CHECKING:
    from mojiang.core.run import Run

_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_OVERSTRUCK: Final = re.compile(r".\x08")  # how man pages once printed bold and underline
# C0 and C1 controls but tab, newline and return; the marks that are no characters at all.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufeff\ufffe\uffff\ufff9-\ufffb]")
_OTHER_SCRIPT: Final = re.compile("[\u0370-\u1fff\u2e80-\ud7ff\uf900-\ufdff]")
_TWO_WIDE: Final = re.compile("[^\x00-\x7f]{2}")  # every misread sequence is at least this; far cheaper than is_bad
_FORM_FEED: Final = re.compile("\x0c")  # a page break in prose; in code it is white space that some editors use
_TRAILING: Final = re.compile(r"[ \t]+(?=\n|\Z)")


class Clean(Recipe):
    """Remove control characters and escape sequences, repair mojibake, drop documents without text.

    Code is left as it is but for control characters: its indentation, case, punctuation and trailing spaces stay, since
    a language model learns exactly what it is shown.

    When not to use: on text whose control characters carry meaning, such as terminal recordings.
    Source: ftfy (Speer 2019) for mojibake; ECMA-48 for escape sequences.
    Example:
        >>> Clean(data="corpus", min_characters=20)
        Clean(data='corpus', ...)
    """

    recipe: ClassVar[str] = "data.clean"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to clean."""
    mojibake: bool = True
    """Repair prose that was decoded with the wrong encoding (`ä½ å¥½` becomes `你好`); code is never repaired."""
    trailing_spaces: bool = False
    """Also strip spaces at line ends of prose (two of them mean a line break in Markdown)."""
    min_characters: int = Field(8, ge=1)
    """Documents with fewer characters that are not white space are dropped."""
    max_replacement_share: float = Field(0.02, ge=0, le=1)
    """Documents are dropped in which more than this share of characters is U+FFFD, left by broken bytes."""

    def run(self, run: Run) -> Metrics:
        """Clean every document; writes documents, drops and the report."""
        settings = Settings(self.mojibake, self.trailing_spaces, self.min_characters, self.max_replacement_share)
        with Accounting(run.out, "data.clean") as books:
            map_documents(run, partial(map_texts, partial(clean_row, settings)), run.input("data").path, books)
            return books.finish()


@dataclass(frozen=True)
class Settings:
    """The fields of `Clean` a worker needs."""

    mojibake: bool = True
    trailing_spaces: bool = False
    min_characters: int = 8
    max_replacement_share: float = 0.02


def clean_row(settings: Settings, row: dict[str, Any], changes: Counter[str]) -> tuple[str, str, str]:
    """Decide on one document: (text, reason, detail), the reason empty when it is kept."""
    text = clean_text(row["text"], settings, changes, is_code=row["format"] == "code")
    broken = text.count("\ufffd")
    if broken > settings.max_replacement_share * len(text):
        return text, "replacement-characters", f"{broken} of {len(text)} characters"
    solid = len("".join(text.split()))
    if solid == 0:
        return text, "empty", ""
    if solid < settings.min_characters:
        return text, "too-short", f"{solid} characters"
    return text, "", ""


def clean_text(text: str, settings: Settings, changes: Counter[str], is_code: bool) -> str:
    """Clean one text, adding to `changes` what was done.

    >>> clean_text("\\x1b[1mbold\\x1b[0m a\\x00b ä½\xa0å¥½", Settings(), Counter(), is_code=False)
    'bold ab 你好'
    """
    if not is_code:
        for name, pattern in (("escape sequences", _ANSI), ("overstruck characters", _OVERSTRUCK)):
            text = _remove(text, pattern, name, changes)
        # Before the controls go: a misread UTF-8 sequence contains C1 controls, and needs them to be recognised.
        if settings.mojibake and not text.isascii():
            text = _repair(text, changes)
        text = _remove(text, _FORM_FEED, "form feeds", changes, "\n")
    text = _remove(text, _CONTROL, "control characters", changes)
    if settings.trailing_spaces and not is_code:
        text = _remove(text, _TRAILING, "trailing spaces", changes)
    return text


def _remove(text: str, pattern: re.Pattern[str], name: str, changes: Counter[str], by: str = "") -> str:
    text, count = pattern.subn(by, text)
    if count:
        changes[f"{name} removed"] += count
    return text


def _repair(text: str, changes: Counter[str]) -> str:
    import ftfy
    from ftfy.badness import is_bad

    # Line by line: one quotation of mojibake must not decide how the rest of a document is read.
    lines = text.split("\n")
    for i, line in enumerate(lines):
        # Good Chinese, Russian, … on the line proves that it was read well: what looks wrong there is meant, or quoted.
        if line.isascii() or not _TWO_WIDE.search(line) or _OTHER_SCRIPT.search(line) or not is_bad(line):
            continue
        fixed = ftfy.fix_encoding(line)
        if fixed != line:
            lines[i] = fixed
            changes["lines of mojibake repaired"] += 1
    return "\n".join(lines)

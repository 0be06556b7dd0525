"""Remove what is not text from texts, and documents that hold none; never touch what a model should learn."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.config import Config
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.data._accounting import Accounting, Changes
from mojiang.data._mapping import map_documents, map_texts
from mojiang.data._remnants import strip_html

if TYPE_CHECKING:
    from mojiang.core.run import Run

_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_OVERSTRUCK: Final = re.compile(r".\x08")  # how man pages once printed bold and underline
# C0 and C1 controls but tab, newline and return; the marks that are no characters at all.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufeff\ufffe\uffff\ufff9-\ufffb]")
_OTHER_SCRIPT: Final = re.compile("[\u0370-\u1fff\u2e80-\ud7ff\uf900-\ufdff]")
_TWO_WIDE: Final = re.compile("[^\x00-\x7f]{2}")  # every misread sequence is at least this; far cheaper than is_bad
_CONTROL_BYTES: Final = bytes((*range(9), 11, *range(14, 32), 127))  # those of ASCII
_FORM_FEED: Final = re.compile("\x0c")  # a page break in prose; in code it is white space that some editors use
_TRAILING: Final = re.compile(r"[ \t]+(?=\n|\Z)")
# Soft hyphens, zero-width spaces, marks that turn the direction of writing, tag characters outside of a flag. Joiners
# stay: emoji and many scripts need them.
_INVISIBLE: Final = re.compile("[\u00ad\u180e\u200b\u2060-\u2064\u202a-\u202e\u2066-\u206f]")
_TAGS: Final = re.compile("(\U0001f3f4[\U000e0030-\U000e007a]{2,6}\U000e007f)|[\U000e0000-\U000e007f]+")


class Settings(Config):
    """What `Clean` does to a text."""

    controls: bool = True
    """Remove control characters, and from prose escape sequences, overstriking and form feeds."""
    mojibake: bool = True
    """Repair prose that was decoded with the wrong encoding (`ä½ å¥½` becomes `你好`); code is never repaired."""
    html: bool = False
    """Remove tags, comments and scripts that HTML left in prose, and decode its entities; code shown in it stays."""
    invisible: bool = False
    """Remove soft hyphens, zero-width spaces, direction marks and hidden tag characters from prose; joiners stay."""
    trailing_spaces: bool = False
    """Also strip spaces at line ends of prose (two of them mean a line break in Markdown)."""
    min_characters: int = Field(8, ge=1)
    """Documents with fewer characters that are not white space are dropped."""
    max_replacement_share: float = Field(0.02, ge=0, le=1)
    """Documents are dropped in which more than this share of characters is U+FFFD, left by broken bytes."""


class Clean(Recipe, Settings):
    """Remove control characters and escape sequences, repair mojibake, drop documents without text.

    Code is left as it is but for control characters: its indentation, case, punctuation and trailing spaces stay, since
    a language model learns exactly what it is shown.

    When not to use: on text whose control characters carry meaning, such as terminal recordings.
    Source: ftfy (Speer 2019) for mojibake; ECMA-48 for escape sequences.
    Example:
        >>> Clean(data="corpus", min_characters=20)
        Clean(...data='corpus')
    """

    recipe: ClassVar[str] = "data.clean"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to clean."""

    def run(self, run: Run) -> Metrics:
        """Clean every document; writes documents, drops and the report."""
        settings = Settings.model_validate(self.model_dump(include=set(Settings.model_fields)))
        with Accounting(run.out, "data.clean") as books:
            map_documents(run, partial(map_texts, partial(clean_row, settings)), run.input("data").path, books)
            books.refuse_nothing("lower --min-characters, or look at what was loaded")
            return books.finish()


def clean_row(settings: Settings, row: dict[str, Any], changes: Changes) -> tuple[str, str, str]:
    """Decide on one document: (text, reason, detail), the reason empty when it is kept."""
    text = clean_text(row["text"], settings, changes, is_code=row["format"] == "code")
    broken = text.count("\ufffd")
    if broken > settings.max_replacement_share * len(text):
        return text, "replacement-characters", f"{broken} of {len(text)} characters"
    # Nearly always the beginning has enough, and the rest need not be counted.
    solid = _solid(text[: 64 * settings.min_characters])
    solid = solid if solid >= settings.min_characters else _solid(text)
    if solid == 0:
        return text, "empty", ""
    if solid < settings.min_characters:
        return text, "too-short", f"{solid} characters"
    return text, "", ""


def _solid(text: str) -> int:
    return len("".join(text.split()))


def clean_text(text: str, settings: Settings, changes: Changes, is_code: bool) -> str:
    """Clean one text, adding to `changes` what was done.

    >>> clean_text("\\x1b[1mbold\\x1b[0m a\\x00b ä½\xa0å¥½", Settings(), Changes(), is_code=False)
    'bold ab 你好'
    """
    if not is_code:
        if settings.controls:
            text = _remove_sequences(text, changes)
        if settings.html:
            text = strip_html(text, changes)
        # Before the controls go: a misread UTF-8 sequence contains C1 controls, and needs them to be recognised.
        if settings.mojibake and not text.isascii():
            text = _repair(text, changes)
        if settings.invisible and not text.isascii():
            text = _remove(text, _INVISIBLE, "invisible characters", changes)
            text = _remove(text, _TAGS, "hidden tag characters", changes, r"\1")
        if settings.controls:
            text = _remove(text, _FORM_FEED, "form feeds", changes, "\n")
    if settings.controls and _may_have_controls(text):
        text = _remove(text, _CONTROL, "control characters", changes)
    if settings.trailing_spaces and not is_code:
        text = _remove(text, _TRAILING, "trailing spaces", changes)
    return text


def _remove_sequences(text: str, changes: Changes) -> str:
    if "\x1b" in text:
        text = _remove(text, _ANSI, "escape sequences", changes)
    return _remove(text, _OVERSTRUCK, "overstruck characters", changes) if "\x08" in text else text


def _may_have_controls(text: str) -> bool:
    """Deleting bytes is seven times as fast as a pattern, and all there is to do for most of English."""
    return not text.isascii() or len(text.encode().translate(None, _CONTROL_BYTES)) != len(text)


def _remove(text: str, pattern: re.Pattern[str], name: str, changes: Changes, by: str = "") -> str:
    new, count = pattern.subn(by, text)
    if new != text:
        changes.note(f"{name} removed", text, new, count)
    return new


def _repair(text: str, changes: Changes) -> str:
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
            changes.note("lines of mojibake repaired", line, fixed)
    return "\n".join(lines)

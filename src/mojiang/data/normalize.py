"""One form for what is written in several ways: Unicode, line ends, width, script, spaces, dates, numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mojiang.core.artifact import Kind
from mojiang.core.config import Config
from mojiang.core.errors import Unavailable
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.data._accounting import Accounting, Changes
from mojiang.data._mapping import map_documents, map_texts
from mojiang.data._spans import fixed_spans, iso_dates, plain_numbers, rewrite

if TYPE_CHECKING:
    from mojiang.core.run import Run

Script = Literal["keep", "t2s", "s2t", "tw2s", "s2tw", "tw2sp", "s2twp", "hk2s", "s2hk"]

_NEWLINE: Final = re.compile("\r\n?|\u2028|\u2029|\x85")
_CODE_NEWLINE: Final = re.compile("\r\n?")
_WIDE: Final = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\u3000]")
_WIDE_TO_HALF: Final = {c: c - 0xFEE0 for c in range(0xFF10, 0xFF5B)} | {0x3000: 0x20}
_ODD_SPACE: Final = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
_RUN_OF_SPACES: Final = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
_BLANK_LINES: Final = re.compile(r"\n(?:[ \t]*\n){2,}")
_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HALF_MARK: Final = re.compile(rf"(?<=[{_HAN}])[,;:!?](?=\s?[{_HAN}]|\s*$)|(?<=[{_HAN}])\.(?=\s*$)", re.MULTILINE)
_FULL_MARKS: Final = {",": "，", ";": "；", ":": "：", "!": "！", "?": "？", ".": "。"}


class Settings(Config):
    """What `Normalize` does to a text."""

    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form. NFKC also rewrites ², ﬁ and ㈱, which cannot be undone."""
    newlines: bool = True
    """Make every line ending a line feed."""
    half_width: bool = False
    """Turn full-width letters, digits and spaces into half-width ones; Chinese punctuation stays."""
    script: Script = "keep"
    """Convert Chinese documents with OpenCC: t2s (traditional to simplified), s2t, and with the standards (and p: the
    words) of Taiwan or Hong Kong. Only documents whose language is zh: Japanese has characters of its own."""
    chinese_marks: bool = False
    """Make half-width , . ; : ! ? after a Chinese character full-width, where no Latin text or number follows."""
    spaces: Literal["keep", "plain", "single"] = "keep"
    """plain: no-break, thin and other odd spaces become ordinary ones. single: besides, one space within a line and one
    blank line between lines; indentation stays."""
    dates: Literal["keep", "iso"] = "keep"
    """iso: days such as `March 5, 2023` and `2023年3月5日` become 2023-03-05, where only one reading is possible."""
    day_first: bool | None = None
    """How 3/4/2023 is read by `dates`; not set, it is left alone unless only one reading is possible."""
    numbers: Literal["keep", "plain", "expand"] = "keep"
    """plain: 1,234,567 becomes 1234567. expand: besides, 3.5万 becomes 35000. Nothing ever gets separators."""
    code: bool = False
    """Apply the Unicode form and width to source code too."""


class Normalize(Recipe, Settings):
    """Bring every document to one Unicode form and to `\\n` line ends; the rest only when asked for.

    Case and punctuation are left alone: lower-casing or stripping them destroys text for a language model. In code only
    line ends are changed, unless `code` says otherwise, since a string literal may need its exact form. Dates and
    numbers are found as spans, never in code, links, paths or lists. The report counts every change with examples,
    before and after; ids stay, so the text as it was is a look-up away in the dataset before.

    When not to use: on corpora that must stay byte for byte what they were.
    Source: Unicode Standard Annex #15; ISO 8601; OpenCC for scripts.
    Example:
        >>> Normalize(data="clean", half_width=True, script="t2s")
        Normalize(...data='clean')
    """

    recipe: ClassVar[str] = "data.normalize"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to normalise."""

    def run(self, run: Run) -> Metrics:
        """Normalise every document; writes documents, drops (none) and the report."""
        if self.script != "keep":
            converter(self.script)  # before the workers start: one clear error
        if self.day_first is not None and self.dates == "keep":
            run.warn("day_first has no effect: dates are kept as they are (give --dates iso)")
        settings = Settings.model_validate(self.model_dump(include=set(Settings.model_fields)))
        with Accounting(run.out, "data.normalize") as books:
            map_documents(
                run, partial(map_texts, partial(normalize_row, settings)), run.input("data").path, books, judges=False
            )
            return books.finish()


@cache
def converter(script: str) -> Callable[[str], str]:
    """OpenCC's conversion of that name.

    Raises:
        Unavailable: OpenCC is not installed.
    """
    try:
        from opencc import OpenCC
    except ImportError:
        raise Unavailable(
            f"converting Chinese ({script}) needs the package opencc", hint="pip install 'mojiang[chinese]'"
        ) from None
    convert: Callable[[str], str] = OpenCC(script).convert
    return convert


def normalize_row(settings: Settings, row: dict[str, Any], changes: Changes) -> tuple[str, str, str]:
    """The normalised text of one document; nothing is ever dropped."""
    code = row["format"] == "code"
    text = normalize_text(row["text"], settings, changes, is_code=code, chinese=row["language"] == "zh")
    return text, "", ""


def normalize_text(text: str, settings: Settings, changes: Changes, is_code: bool, chinese: bool = True) -> str:
    """Normalise one text, adding to `changes` what was done.

    >>> normalize_text("e\\u0301\\r\\n", Settings(), Changes(), is_code=False)
    'é\\n'
    """
    if settings.newlines:
        text = _count(text, _CODE_NEWLINE if is_code else _NEWLINE, "\n", "line ends changed", changes)
    if is_code and not settings.code:
        return text
    text = _characters(text, settings, changes)
    if is_code:
        return text
    if settings.script != "keep" and chinese:
        before, text = text, converter(settings.script)(text)
        if text != before:
            changes.note(f"documents converted by {settings.script}", before, text)
    if settings.spaces != "keep":
        text = _spaces(text, settings, changes)
    if settings.chinese_marks:
        marks = lambda match: _FULL_MARKS[match[0]]  # noqa: E731
        text = rewrite(text, _HALF_MARK, marks, "punctuation made full-width", changes, fixed_spans)
    if settings.dates == "iso":
        text = iso_dates(text, changes, settings.day_first)
    if settings.numbers != "keep":
        text = plain_numbers(text, changes, expand=settings.numbers == "expand")
    return text


def _characters(text: str, settings: Settings, changes: Changes) -> str:
    if settings.half_width and (count := len(_WIDE.findall(text))):
        before, text = text, text.translate(_WIDE_TO_HALF)
        changes.note("full-width characters made half-width", before, text, count)
    if settings.form != "none" and not unicodedata.is_normalized(settings.form, text):
        before, text = text, unicodedata.normalize(settings.form, text)
        changes.note(f"documents brought to {settings.form}", before, text)
    return text


def _spaces(text: str, settings: Settings, changes: Changes) -> str:
    text = _count(text, _ODD_SPACE, " ", "odd spaces made plain", changes)
    if settings.spaces == "single":
        text = rewrite(text, _RUN_OF_SPACES, lambda match: " ", "runs of spaces made one", changes, fixed_spans)
        text = rewrite(text, _BLANK_LINES, lambda match: "\n\n", "blank lines made one", changes, fixed_spans)
    return text


def _count(text: str, pattern: re.Pattern[str], by: str, change: str, changes: Changes) -> str:
    new, count = pattern.subn(by, text)
    if count:
        changes.note(change, text, new, count)
    return new

"""One Unicode form and one kind of line ending, so that equal texts are equal bytes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.data._accounting import Accounting
from mojiang.data._mapping import map_documents, map_texts

if TYPE_CHECKING:
    from mojiang.core.run import Run

_NEWLINE: Final = re.compile("\r\n?|\u2028|\u2029|\x85")
_CODE_NEWLINE: Final = re.compile("\r\n?")
_WIDE: Final = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\u3000]")
_WIDE_TO_HALF: Final = {c: c - 0xFEE0 for c in range(0xFF10, 0xFF5B)} | {0x3000: 0x20}


class Normalize(Recipe):
    """Bring every document to one Unicode form and to `\\n` line ends.

    Case, punctuation and numbers are left alone: lower-casing or "cleaning" them destroys text for a language model.
    In code only line ends are changed, unless `code` says otherwise, since a string literal may need its exact form.

    When not to use: on corpora that must stay byte for byte what they were.
    Source: Unicode Standard Annex #15.
    Example:
        >>> Normalize(data="clean", half_width=True)
        Normalize(data='clean', ...)
    """

    recipe: ClassVar[str] = "data.normalize"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to normalise."""
    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form. NFKC also rewrites ², ﬁ and ㈱, which cannot be undone."""
    newlines: bool = True
    """Make every line ending a line feed."""
    half_width: bool = False
    """Turn full-width letters, digits and spaces into half-width ones; Chinese punctuation stays."""
    code: bool = False
    """Apply the Unicode form and width to source code too."""

    def run(self, run: Run) -> Metrics:
        """Normalise every document; writes documents, drops (none) and the report."""
        settings = Settings(self.form, self.newlines, self.half_width, self.code)
        with Accounting(run.out, "data.normalize") as books:
            map_documents(run, partial(map_texts, partial(normalize_row, settings)), run.input("data").path, books)
            return books.finish()


@dataclass(frozen=True)
class Settings:
    """The fields of `Normalize` a worker needs."""

    form: Literal["NFC", "NFKC", "none"] = "NFC"
    newlines: bool = True
    half_width: bool = False
    code: bool = False


def normalize_row(settings: Settings, row: dict[str, Any], changes: Counter[str]) -> tuple[str, str, str]:
    """The normalised text of one document; nothing is ever dropped."""
    return normalize_text(row["text"], settings, changes, is_code=row["format"] == "code"), "", ""


def normalize_text(text: str, settings: Settings, changes: Counter[str], is_code: bool) -> str:
    """Normalise one text, adding to `changes` what was done.

    >>> normalize_text("e\\u0301\\r\\n", Settings(), Counter(), is_code=False)
    'é\\n'
    """
    if settings.newlines:
        text, count = (_CODE_NEWLINE if is_code else _NEWLINE).subn("\n", text)
        if count:
            changes["line ends changed"] += count
    if is_code and not settings.code:
        return text
    if settings.half_width:
        count = len(_WIDE.findall(text))
        if count:
            text = text.translate(_WIDE_TO_HALF)
            changes["full-width characters made half-width"] += count
    if settings.form != "none" and not unicodedata.is_normalized(settings.form, text):
        text = unicodedata.normalize(settings.form, text)
        changes[f"documents brought to {settings.form}"] += 1
    return text

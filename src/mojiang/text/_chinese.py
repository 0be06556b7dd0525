"""Ways to cut Chinese into words: characters, jieba, or a segmenter of ours. Latin words and numbers stay whole."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from mojiang.core.errors import Unavailable
from mojiang.text import _english
from mojiang.text._segmenter import load_segmenter

Way = Literal["characters", "jieba"]

HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# What a segmenter trained on newspapers has no business to cut: addresses, Latin words, and numbers with a point.
_WHOLE: Final = re.compile(
    r"(?:https?://|www\.)[!-~]+|[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z][A-Za-z0-9_+#'’.-]*"
)


def has_han(text: str) -> bool:
    """Whether any character is Chinese."""
    return HAN.search(text) is not None


def words(sentence: str, way: Way = "characters", segmenter: Path | None = None) -> list[str]:
    """The words of a sentence that has Chinese in it.

    >>> words("用 GPT-4 写代码，3.5分钟。")
    ['用', 'GPT-4', '写', '代', '码', '，', '3.5', '分', '钟', '。']
    """
    found: list[str] = []
    place = 0
    for match in _WHOLE.finditer(sentence):
        found += _cut(sentence[place : match.start()], way, segmenter)
        found += _english.words(match.group())
        place = match.end()
    return found + _cut(sentence[place:], way, segmenter)


def _cut(text: str, way: Way, segmenter: Path | None) -> list[str]:
    if not text.strip():
        return []
    if segmenter is not None:
        return load_segmenter(segmenter).cut(text)
    if way == "jieba":
        return [word for word in jieba_cutter()(text) if not word.isspace()]
    return _characters(text)


_CHARACTER: Final = re.compile(rf"{HAN.pattern}|\d+(?:[.,:]\d+)*%?|[^\W\d]+?(?={HAN.pattern}|\b|\d)|[^\s]")


def _characters(text: str) -> list[str]:
    return _CHARACTER.findall(text)


@cache
def jieba_cutter() -> Callable[[str], Sequence[str]]:
    """jieba's `lcut`, its dictionary loaded.

    Raises:
        Unavailable: jieba is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is of 2020: invalid escapes, pkg_resources
        try:
            import jieba
        except ModuleNotFoundError as error:
            raise Unavailable("jieba is not installed", hint="pip install 'mojiang[jieba]'") from error
    jieba.setLogLevel("WARNING")
    jieba.initialize()
    cut: Any = jieba.lcut
    return cut  # type: ignore[no-any-return]

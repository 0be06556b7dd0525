"""Which natural language is a text in? Scripts decide first, letter statistics (py3langid) only where they must.

Chinese, Japanese and Korean are settled by counting characters: exact, fast, and right on two characters as on two
million. Where a script serves many languages, py3langid ranks them; English gets a head start of a few nats, because a
short ASCII line ("Hello") is English far more often than the Breton that letter statistics alone prefer.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

UNKNOWN: Final = "und"  # ISO 639-2 "undetermined": nothing in the text is a letter
_SAMPLE: Final = 1000  # characters from each of three places
_ENGLISH_HEAD_START: Final = 25.0  # nats; about six typical letter n-grams
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA: Final = re.compile("[\u3041-\u30ff\uff66-\uff9f]")
_HANGUL: Final = re.compile("[\uac00-\ud7af\u1100-\u11ff]")
_WORD: Final = re.compile(r"[^\W\d_\u1100-\u11ff\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
# A quarter of any English prose is these; no other language's prose reaches half of that.
_ENGLISH_WORDS: Final = frozenset(("the", "of", "and", "to", "that", "is", "for", "with", "this", "are", "be", "it"))
# Written standards only: dialects and creoles that share a spelling would win from their parent on short texts.
_CANDIDATES: Final = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id",
    "is", "it", "ka", "kk", "lt", "lv", "mk", "mn", "ms", "mr", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq",
    "sr", "sv", "ta", "te", "th", "tl", "tr", "uk", "ur", "uz", "vi",
)  # fmt: skip


@cache
def _ranker() -> object:
    import py3langid.langid as langid  # half a second to load: only when a text needs it

    identifier = langid._get_identifier() if hasattr(langid, "_get_identifier") else langid.IDENTIFIER
    identifier.set_languages(list(_CANDIDATES))
    return identifier


def sample(text: str) -> str:
    """The start, middle and end of a long text, so that a licence header or a table does not decide alone."""
    if len(text) <= 3 * _SAMPLE:
        return text
    middle = len(text) // 2
    return "\n".join((text[:_SAMPLE], text[middle : middle + _SAMPLE], text[-_SAMPLE:]))


def identify(text: str) -> str:
    """ISO 639-1 code of the main language of `text`, or "und" if it has no letters.

    >>> identify("Hello"), identify("你好"), identify("使用 apt-get install 安装软件包"), identify("42")
    ('en', 'zh', 'zh', 'und')
    """
    part = sample(text)
    scripts = () if part.isascii() else (_HAN, _KANA, _HANGUL)
    han, kana, hangul = [len(pattern.findall(part)) for pattern in scripts] or (0, 0, 0)
    words = _WORD.findall(part)
    # One Han character says about as much as one spaced word.
    if han + kana + hangul > len(words):
        if hangul > han + kana:
            return "ko"
        return "ja" if kana > 0.1 * (han + kana) else "zh"
    if not words:
        return UNKNOWN
    if len(words) >= 20 and sum(map(_ENGLISH_WORDS.__contains__, words)) > 0.12 * len(words):
        return "en"  # the common case, at a fiftieth of the price
    return _rank(" ".join(words))


def _rank(letters: str) -> str:
    scores: dict[str, float] = dict(_ranker().rank(letters))  # type: ignore[attr-defined]
    best = max(scores, key=lambda name: scores[name])
    if letters.isascii() and scores["en"] + _ENGLISH_HEAD_START >= scores[best]:
        return "en"
    return best

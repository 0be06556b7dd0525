"""Words and sentences of spaced text, and where sentences end in Chinese.

Words follow the Penn Treebank where it matters to what comes after (`don't` → `do n't`, `dog's` → `dog 's`, marks on
their own) and differ where its rules tear things apart that the web has and newspapers of 1989 had not: addresses,
hashtags, numbers with units and abbreviations stay whole, and quotes stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

# In this order: the first that fits wins.
_TOKEN: Final = re.compile(
    r"""
    (?:https?://|www\.)[^\s<>"“”]*[^\s<>"“”.,;:!?'’)\]}]     # addresses of pages
  | [\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}               # and of people
  | [@\#]\w[\w-]*                                            # mentions and hashtags
  | (?:[A-Za-z]\.){2,}                                       # U.S.  e.g.
  | (?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|Inc|Ltd|Co|Corp|No|Gen|Col|Sen|Rep|Gov)\.(?=\s|$|,)
  | \d+(?:[.,:/-]\d+)*(?:st|nd|rd|th|s|%)?(?!\w)             # 3.14  1,000  12:30  2024-01-02  3rd  1990s  5%
  | [^\W\d_]+(?:['’][^\W\d_]+)*(?:-[^\W_]+(?:['’][^\W\d_]+)*)*(?!\w)   # words, with apostrophes and hyphens within
  | \w+                                                      # and what mixes letters and digits
  | \.{2,} | -{2,} | …+                                      # ... -- …
  | [^\w\s]
    """,
    re.VERBOSE,
)
_NOT: Final = re.compile(r"(?i)^(.+)(n['’]t)$")
_CLITIC: Final = re.compile(r"(?i)^(.+?)(['’](?:s|m|d|ll|re|ve))$")
_JOINED: Final = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3}

_SHORT: Final = (
    "mr mrs ms dr prof rev hon st jr sr vs etc inc ltd co corp no nos vol vols fig figs eq eqs sec ch pp p ed eds al "
    "gen col capt lt sgt maj cmdr adm sen rep gov pres messrs mt ft ave blvd rd dept univ assn bros "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun approx est cf ca viz resp "
    "e.g i.e a.m p.m u.s u.k u.n ph.d b.a m.a d.c"
)
_ABBREVIATIONS: Final = frozenset(_SHORT.split())
# Those that end a sentence as readily as any word, when what follows begins with a capital letter.
_EITHER: Final = "etc inc ltd co corp jr sr a.m p.m u.s u.k u.n ph.d b.a m.a d.c al est"
_AMBIGUOUS: Final = frozenset(_EITHER.split())
_FIRST: Final = (
    "the a an this that these those he she it we they i you in on at but and so if when while as there here his her "
    "its their our my your what who how why where no not for from to with after before since although however"
)
_STARTERS: Final = frozenset(_FIRST.split())
_END: Final = re.compile(r"""(?:[。！？!?…]+|\.+)(?:["'”’»)\]）】」』]*)|\n[ \t]*\n+""")
_LAST_WORD: Final = re.compile(r"([\w.]*\w)\.$")


def words(text: str) -> list[str]:
    """The words, numbers and marks of spaced text, in order; what they are cut from stays as it was written.

    >>> words("Mr. Smith can't pay $3.50, or 5%, in the U.S.!")
    ['Mr.', 'Smith', 'ca', "n't", 'pay', '$', '3.50', ',', 'or', '5%', ',', 'in', 'the', 'U.S.', '!']
    """
    found: list[str] = []
    for token in _TOKEN.findall(text):
        found.extend(_parted(token))
    return found


def _parted(token: str) -> Iterator[str]:
    """A word without its clitic, and the clitic."""
    if "'" in token or "’" in token:
        if match := _NOT.match(token) or _CLITIC.match(token):
            yield from match.groups()
            return
    elif cut := _JOINED.get(token.lower(), 0):
        yield token[:cut]
        yield token[cut:]
        return
    yield token


def sentences(text: str) -> list[str]:
    """The sentences of English or Chinese text, without the white space around them.

    >>> sentences("Dr. Wu paid $3.50 to J. Doe. “Really?” he asked. 他来了。“真的？”她问。")
    ['Dr. Wu paid $3.50 to J. Doe.', '“Really?” he asked.', '他来了。', '“真的？”她问。']
    """
    found, start = [], 0
    for match in _END.finditer(text):
        end = match.end()
        if match.group().startswith(("\n", "\r")) or _ends_here(text, start, match):
            found.append(text[start:end])
            start = end
    found.append(text[start:])
    return [kept for sentence in found if (kept := sentence.strip())]


def _ends_here(text: str, start: int, match: re.Match[str]) -> bool:
    mark, after = match.group()[0], text[match.end() : match.end() + 40]
    if mark in "。！？":
        # 「“真的？”她问。」: what was quoted is a part of the sentence around it.
        return not (match.group()[-1] in "”’」』" and mark in "！？" and after[:1] not in ("", "\n", "“", "「"))
    if mark == "…":
        return not after or after[0] in "\n“" or after[0].isspace()
    if after and not after[0].isspace():
        return False
    following = after.lstrip().lstrip("\"'“‘(«[")
    if mark in "!?" or len(match.group().rstrip("\"'”’»)]")) > 1:
        return not following[:1].islower()
    return _full_stop(text[start : match.start() + 1], following)


def _full_stop(before: str, following: str) -> bool:
    if not following:
        return True
    if following[0].islower():
        return False
    word = _LAST_WORD.search(before)
    if word is None:
        return True
    last = word.group(1).lower()
    next_word = re.match(r"\w*", following)
    begins = next_word is not None and next_word.group().lower() in _STARTERS and following[0].isupper()
    if len(last) == 1 and last.isalpha() and last != "i":
        return begins and len(before) > 2 and before[-3:-2] != "."  # an initial
    if last in _ABBREVIATIONS:
        return last in _AMBIGUOUS and begins
    return True

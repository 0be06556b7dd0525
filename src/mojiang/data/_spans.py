"""Dates and numbers within a text: found where they stand, written one way, left alone wherever there is doubt.

Nothing is parsed but the span itself. A span is left as it is inside code, links, addresses, paths and tags, when it
is no day of the calendar, when another reading is possible, and when it may be a year, a version or a telephone number.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import Final

from mojiang.data._accounting import Changes

CODE: Final = re.compile(
    r"""^(?P<fence>```+|~~~+).*?(?:^(?P=fence)[^\n]*$|\Z)  # a fenced block
      | ^(?:\ {4}|\t)[^\n]*                                # an indented line
      | (?P<tick>`+)(?!`)[^\n]*?(?<!`)(?P=tick)(?!`)       # a span of code
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_FIXED: Final = re.compile(
    r"""\b(?:https?|ftp|file|mailto|git|ssh):[^\s<>"'，。；）】」]+ | \bwww\.[^\s<>"'，。；）】」]+
      | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
      | (?<![\w.])(?:~|\.{1,2})?/[\w.+-]+(?:/[\w.+-]*)+ | \b[A-Za-z]:\\[^\s]+
      | <[A-Za-z/!][^<>\n]{0,300}>
    """,
    re.VERBOSE | re.ASCII,
)

_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH: Final = (
    r"(?P<month>Jan(?:uary|\.)?|Feb(?:ruary|\.)?|Mar(?:ch|\.)?|Apr(?:il|\.)?|May|June?|July?|Aug(?:ust|\.)?|"
    r"Sept?(?:ember|\.)?|Oct(?:ober|\.)?|Nov(?:ember|\.)?|Dec(?:ember|\.)?)"
)
_YEAR: Final = r"(?P<year>1[5-9]\d\d|20\d\d|21\d\d)"
_DIGITS: Final = "〇零○一二三四五六七八九"
_RANGE: Final = r"(?!\s?[-–—~～至到、])"
_DATES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        # 2023年3月5日; not the first half of a range, not of the lunar calendar.
        rf"(?<![\d历曆]){_YEAR}\s?年\s?(?P<month>\d{{1,2}})\s?月\s?(?P<day>\d{{1,2}})\s?[日号號]{_RANGE}",
        rf"(?P<year>[一二][{_DIGITS}]{{3}})年(?P<month>[一二三四五六七八九十]{{1,2}})月"
        rf"(?P<day>[一二三四五六七八九十]{{1,3}})[日号號]{_RANGE}",
        # March 5, 2023. What a count of things may follow ("May 5, 2000 people") is no year for sure.
        rf"(?<![\w/-]){_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?, ?{_YEAR}(?![\w/-]|[.,:]\d| ?[–—-] ?\d"
        r"| (?:people|men|women|children|of|more|or|new|other)\b| [a-z]+s\b)",
        # 5 March 2023, but not the end of "3-5 March 2023" or of "3 and 5 March 2023".
        rf"(?<![\w/.,:-])(?<!\d [-–—&] )(?<!\d[–—&])(?<!\d and )(?<!\d to )(?<!\d or )(?<!\d, )"
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH},? {_YEAR}(?![\w/-]|[.,:]\d| ?[–—-] ?\d)",
        # 2023/3/5 and 2023-3-5; 2023.3.5 is as likely a version.
        rf"(?<![\w/.:,=-]){_YEAR}(?P<sep>[/-])(?P<month>\d{{1,2}})(?P=sep)(?P<day>\d{{1,2}})(?![\w/-]|[.:]\d)",
    )
)
_SLASHED: Final = re.compile(rf"(?<![\w/.:,=-])(?P<one>\d{{1,2}})/(?P<two>\d{{1,2}})/{_YEAR}(?![\w/-]|[.:]\d)")

_GROUPED: Final = re.compile(
    r"(?<![0-9A-Za-z_.,:;=#/\\(\[{@+])[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?![0-9]|[,.:]\d|[)\]}])"
)
_LISTED: Final = re.compile(
    r"(?:\b(?:pages?|pp?|lines?|ports?|nos?|numbers?|ids?|chapters?|sections?|rows?|columns?|items?|rgba?|versions?|"
    r"verses?|articles?|bugs?|issues?)\.?|[第页頁行列号號])\s?$",
    re.IGNORECASE,
)
_MYRIADS: Final = re.compile(
    rf"(?<![0-9A-Za-z_.,/-])(?P<number>\d+(?:\.\d+)?)\s?(?P<scale>[十百千]?万|[十百千]?亿|万亿)"
    rf"(?![0-9{_DIGITS}十百千万亿兆]|分之)"
)
_SCALES: Final = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}


def code_spans(text: str) -> list[tuple[int, int]]:
    """Where a text in prose or Markdown shows code: fenced and indented blocks, and spans between backticks."""
    return [match.span() for match in CODE.finditer(text)]


def fixed_spans(text: str) -> list[tuple[int, int]]:
    """Where nothing may be rewritten: code, links, e-mail addresses, paths, tags; sorted and apart."""
    spans = sorted([*code_spans(text), *(match.span() for match in _FIXED.finditer(text))])
    apart: list[tuple[int, int]] = []
    for start, end in spans:
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def rewrite(
    text: str, pattern: re.Pattern[str], write: Callable[[re.Match[str]], str | None], change: str, changes: Changes,
    find_fixed: Callable[[str], Sequence[tuple[int, int]]],
) -> str:  # fmt: skip
    """Replace matches that touch no fixed span by what `write` gives; None and the same text leave one alone."""
    parts: list[str] = []
    fixed: Sequence[tuple[int, int]] = ()
    starts: list[int] = []
    done = 0
    for number, match in enumerate(pattern.finditer(text)):
        if number == 0:  # most texts have nothing to rewrite, and looking for what is fixed takes longest
            fixed = find_fixed(text)
            starts = [start for start, _ in fixed]
        near = bisect_right(starts, match.end() - 1) - 1
        if near >= 0 and fixed[near][1] > match.start():
            continue
        new = write(match)
        if new is None or new == match[0]:
            continue
        low, high = max(0, match.start() - 24), match.end() + 24
        tail = text[match.end() : high]
        changes.note(change, text[low:high], text[low : match.start()] + new + tail)
        parts += [text[done : match.start()], new]
        done = match.end()
    return "".join([*parts, text[done:]]) if parts else text


def iso_dates(text: str, changes: Changes, day_first: bool | None = None) -> str:
    """Write the days of the calendar that a text names as YYYY-MM-DD.

    `day_first` says how 3/4/2023 is read; None leaves it alone, as long as both readings are possible.

    >>> iso_dates("On March 5th, 2023 and 2023年3月5日, version 2023.3.5 of 3/4/2023.", Changes())
    'On 2023-03-05 and 2023-03-05, version 2023.3.5 of 3/4/2023.'
    """
    for pattern in _DATES:
        text = rewrite(text, pattern, _iso, "dates written as YYYY-MM-DD", changes, fixed_spans)

    def slashed(match: re.Match[str]) -> str | None:
        one, two, year = int(match["one"]), int(match["two"]), int(match["year"])
        readings = [(two, one), (one, two)] if day_first is None else [(two, one) if day_first else (one, two)]
        days = {day for month, number in readings if (day := _day(year, month, number))}
        return days.pop() if len(days) == 1 else None

    return rewrite(text, _SLASHED, slashed, "dates written as YYYY-MM-DD", changes, fixed_spans)


def _iso(match: re.Match[str]) -> str | None:
    return _day(_value(match["year"]), _month(match["month"]), _value(match["day"]))


def _day(year: int, month: int, day: int) -> str | None:
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None


def _month(word: str) -> int:
    if not word[0].isascii() or word[0].isdigit():
        return _value(word)
    return next(n for n, name in enumerate(_MONTHS, 1) if name.startswith(word[:3].lower()))


def _value(word: str) -> int:
    """A number below a hundred, or the digits of a year, in digits of either kind.

    >>> _value("二〇二三"), _value("三十一"), _value("07")
    (2023, 31, 7)
    """
    if word.isdecimal():
        return int(word)
    if "十" not in word:
        return int("".join(str(max(0, _DIGITS.index(c) - 2)) for c in word))
    tens, _, ones = word.partition("十")
    if "十" in ones or len(tens) > 1 or len(ones) > 1:
        return 0  # no such number; no such day either
    return 10 * (_value(tens) if tens else 1) + (_value(ones) if ones else 0)


def plain_numbers(text: str, changes: Changes, expand: bool = False) -> str:
    """Take the separators out of 1,234,567; with `expand`, also write 3.5万 as 35000.

    Digits are never grouped, so a year stays a year. Lists of numbers, arguments, tuples and tables stay.

    >>> plain_numbers("In 2023, 1,234,567 of f(1,234) on pages 100,200", Changes())
    'In 2023, 1234567 of f(1,234) on pages 100,200'
    """

    def ungroup(match: re.Match[str]) -> str | None:
        start = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", match.end())
        line = text[start : end if end >= 0 else len(text)]
        listed = _LISTED.search(text, max(start, match.start() - 14), match.start())
        return None if listed or not any(map(str.isalpha, line)) else match[0].replace(",", "")

    text = rewrite(text, _GROUPED, ungroup, "separators taken out of numbers", changes, fixed_spans)
    if expand:
        text = rewrite(text, _MYRIADS, _expanded, "numbers in 万 and 亿 written out", changes, fixed_spans)
    return text


def _expanded(match: re.Match[str]) -> str | None:
    value = Decimal(match["number"])
    for scale in match["scale"]:
        value *= _SCALES[scale]
    return str(int(value)) if value == int(value) else None

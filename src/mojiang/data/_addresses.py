"""Postal addresses of China: province, city, district, road, house, room, in this order and with few of them left out.

What is rare in a text is the number of a house or room, so that is looked for, and the rest read from there: backwards
the road and where it lies, forwards building, floor and room. A road and a number alone ("知道3号") prove nothing; it
takes a place around them, a room behind them, or a word before them that says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_LONGEST: Final = 48  # characters before the number of the house
_NUMBER: Final = r"(?:[甲乙丙丁]?\d{1,5}(?:[-—之]\d{1,4})?|[A-Z]|[一二三四五六七八九十百]{1,5})"
_INSIDE: Final = rf"(?:{_NUMBER}\s?(?:号院|号楼|单元|[栋幢座室层楼户])|(?<=[座元栋幢楼层])\s?[A-Z]?\d{{3,4}}(?!\d))"
_HOUSE: Final = re.compile(
    rf"(?P<house>{_NUMBER}\s?(?:号院|号楼|号|弄|[栋幢座])(?![线码机文球台舰令召称手脉公召元]|元))"
    rf"(?P<inside>(?:\s?[\u4e00-\u9fff]{{0,10}}?\s?(?:{_INSIDE}|{_NUMBER}号(?=\s?[\u4e00-\u9fff]{{0,6}}{_INSIDE})))*)"
)
_RUN: Final = re.compile(r"[\u4e00-\u9fffA-Z0-9 ]*\Z")
_ROAD: Final = re.compile(
    r"[\u4e00-\u9fff]{1,8}?(?:[东西南北中][一二三四五六]?路|大道|大街|胡同|新村|小区|花园|家园|公寓|大厦|广场|"
    r"[路街道巷弄里村庄屯坊园苑])[一二三四五六七八九十]?(?:[东南西北]?[段区])?\s?\Z"
)
_PROVINCE: Final = re.compile(
    r"(?:北京|天津|上海|重庆)(?:市|(?=[\u4e00-\u9fff]{2,4}区))|(?:河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|"
    r"河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃|青海|台湾)(?:省|(?=[\u4e00-\u9fff]{2,4}市))|"
    r"(?:内蒙古|广西|西藏|宁夏|新疆)(?:(?:壮族|回族|维吾尔)?自治区|(?=[\u4e00-\u9fff]{2,4}市))|(?:香港|澳门)(?:特别行政区)?"
)
_UNIT: Final = re.compile(r"[\u4e00-\u9fff]{2,6}?(?:自治州|地区|新区|开发区|街道|[市盟区县旗镇乡])")
_WORD: Final = re.compile(
    r"(?:地址|住址|住所|寄往|寄到|寄至|送到|送至|家住|现住|住在|住|位于|邮寄)(?:[是为]|\S{0,3}[:：])?\s?\Z"
)
# What a sentence puts before an address.
_BEFORE: Final = re.compile(
    r".*?(?:地址|住址|住所|住在|家住|现住|位于|坐落在|寄到|寄往|送到|搬到|搬进|来到|到了|就在|办公室?在|[住在是为的了从往离去])"
    r"(?=[\u4e00-\u9fff]{2})"
)


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Where addresses are, in order and apart.

    >>> text = "他住在浙江省杭州市西湖区文三路478号A座1203室，我知道3号要考试"
    >>> [text[start:end] for start, end in find_addresses(text)]
    ['浙江省杭州市西湖区文三路478号A座1203室']
    """
    done = 0
    for match in _HOUSE.finditer(text):
        if match.start() < done:
            continue
        low = max(done, match.start() - _LONGEST)
        run = _RUN.search(text, low, match.start())
        start = run and _start(text, run.start(), match)
        if start is not None:
            yield start, match.end()
            done = match.end()


def _start(text: str, low: int, house: re.Match[str]) -> int | None:
    """Where the address of this house begins in the run of characters before it; None when it is none."""
    high = house.start()
    low += len(text[low:high]) - len(text[low:high].lstrip())
    said = bool(_WORD.search(text, max(0, low - 8), low))
    if province := _PROVINCE.search(text, low, high):
        low = province.start()
    elif before := _BEFORE.match(text, low, high):
        said = said or bool(_WORD.search(text, low, before.end()))
        low = before.end()
    units = len(_UNIT.findall(text, low, high)) + bool(province)
    if _ROAD.search(text, low, high):
        good = units or said or house["inside"]
    else:  # a building by name or number, within a district
        good = units >= 2 and (house["inside"] or not house["house"].endswith("号"))
    return low if good and high - low >= 2 else None

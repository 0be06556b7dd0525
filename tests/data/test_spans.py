"""Dates and numbers in texts, against hand-labelled cases, Python's calendar, and text that must not change at all."""

from __future__ import annotations

import inspect
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.data import _formats, dedup, load
from mojiang.data._accounting import Changes
from mojiang.data._remnants import strip_html
from mojiang.data._spans import fixed_spans, iso_dates, plain_numbers

DATES = [
    ("on March 5, 2023, we", "on 2023-03-05, we"),
    ("Sunday, Mar. 5th, 2023.", "Sunday, 2023-03-05."),
    ("the 5th of March 2023", "the 2023-03-05"),
    ("5 March 2023", "2023-03-05"),
    ("31 Dec 1999", "1999-12-31"),
    ("born 4 July 1976 in", "born 1976-07-04 in"),
    ("于2023年3月5日发布", "于2023-03-05发布"),
    ("2023 年 12 月 31 号", "2023-12-31"),
    ("二〇二三年三月五日", "2023-03-05"),
    ("一九九九年十二月三十一日止", "1999-12-31止"),
    ("二○○八年八月二十日", "2008-08-20"),
    ("2023/3/5 起", "2023-03-05 起"),
    ("25/12/2023", "2023-12-25"),
    ("12/25/2023", "2023-12-25"),
    ("05/05/2023", "2023-05-05"),
    ("2024-2-29", "2024-02-29"),
]
NOT_DATES = [
    "In 2023 there were 2023 cases.",
    "Python 3.11.7, version 2023.3.5, CalVer 2023.03",
    "3/4/2023 or 4/3/2023",
    "February 30, 2023 and 2023年2月30日 and 2023/13/01",
    "March 5–7, 2023; 3-5 March 2023; 3 and 5 March 2023; 3, 5 March 2023",
    "March 2023, March 5, the 5th of March",
    "On May 5, 2000 people came. On May 5, 2000 soldiers came.",
    "2023年3月5日至7日，2023年3月5日、6日，农历2023年3月5日",
    "2023年3月，3月5日，98年3月5日",
    "https://blog.org/2023/3/5/title and /var/log/2023/3/5 and log-2023-3-5.txt",
    "`2023/3/5` and\n```\nMarch 5, 2023\n```\n\n    March 5, 2023\n",
    "phone 2023-555-0123, part 2023-3-5-7, ISBN 978-3-16-148410-0, 10.1000/2023/3/5",
    "a=2023-3-5",
    "may 5, 2023 be the year",  # no capital: the verb
    '<time datetime="2023/3/5">',
]
NUMBERS = [
    ("1,234 people", "1234 people"),
    ("about $1,234,567.89.", "about $1234567.89."),
    ("共1,234人，12,345元", "共1234人，12345元"),
    ("-1,234 degrees", "-1234 degrees"),
]
NOT_NUMBERS = [
    "In 2023 and 1984, 5000 people", "call 555-123,4567", "1,23 and 12,34,567 and 1234,567 and 0,123",
    "f(1,234) and a[1,234] and {1,234} and (100,200)", "rgb(12,123,123)", "pages 100,200 and lines 10,200",
    "第1,200页", "x=1,234", "1.234,567", "10,000,00", "v1,234", "1,234,567\n2,345,678", "100,200,300,4",
    "https://a.org/?p=1,234 and `1,234`",
]  # fmt: skip
MYRIADS = [
    ("3.5万元", "35000元"), ("1.2亿人", "120000000人"), ("5百万", "5000000"), ("3千万", "30000000"),
    ("20 万吨", "200000吨"), ("10万分之一", "10万分之一"), ("3万5千", "3万5千"), ("三万", "三万"),
    ("1.23456万", "1.23456万"), ("2万亿", "2000000000000"),
    ("A4万", "A4万"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), DATES)
def test_dates_with_one_reading_are_written_one_way(text: str, wanted: str) -> None:
    changes = Changes()
    assert iso_dates(text, changes) == wanted
    assert sum(changes.values()) == 1
    assert iso_dates(wanted, Changes()) == wanted


@pytest.mark.parametrize("text", NOT_DATES)
def test_what_is_no_date_for_sure_stays(text: str) -> None:
    assert iso_dates(text, Changes()) == text


@pytest.mark.parametrize(("day_first", "wanted"), [(True, "2023-04-03"), (False, "2023-03-04")])
def test_slashes_are_read_as_told(day_first: bool, wanted: str) -> None:
    assert iso_dates("3/4/2023", Changes(), day_first) == wanted
    assert iso_dates("31/12/2023 12/31/2023", Changes(), True) == "2023-12-31 12/31/2023"


@given(st.integers(0, 250_000), st.sampled_from(["%B {d}, %Y", "{d} %b %Y", "%Y年%m月%d日", "%Y/%m/%d"]))
def test_every_day_survives_its_usual_spellings(days: int, form: str) -> None:
    day = date(1500, 1, 1) + timedelta(days)
    text = f"It was {day.strftime(form).replace('{d}', str(day.day))}."
    assert iso_dates(text, Changes()) == f"It was {day.isoformat()}."


@pytest.mark.parametrize(("text", "wanted"), NUMBERS)
def test_separators_go(text: str, wanted: str) -> None:
    assert plain_numbers(text, Changes()) == wanted


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_only_looks_grouped_stays(text: str) -> None:
    assert plain_numbers(text + " said" * ("\n" not in text), Changes()) == text + " said" * ("\n" not in text)


@pytest.mark.parametrize(("text", "wanted"), MYRIADS)
def test_myriads(text: str, wanted: str) -> None:
    assert plain_numbers(text, Changes(), expand=True) == wanted
    assert plain_numbers(text, Changes()) == text


@given(st.integers(1000, 10**15))
def test_grouping_is_undone_exactly(number: int) -> None:
    assert plain_numbers(f"a {number:,} b", Changes()) == f"a {number} b"
    assert plain_numbers(f"a {number} b", Changes(), expand=True) == f"a {number} b"


@pytest.mark.parametrize("module", [_formats, dedup, load])
def test_source_code_in_a_fence_is_untouched(module: Any) -> None:
    text = f"Intro.\n\n```python\n{inspect.getsource(module)}\n```\n"
    assert plain_numbers(iso_dates(strip_html(text, Changes()), Changes()), Changes(), expand=True) == text


@given(st.text(alphabet="ab `/.:@<>\n~h1,", max_size=60))
def test_fixed_spans_are_sorted_and_apart(text: str) -> None:
    spans = fixed_spans(text)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= two[0] for one, two in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<p>One</p><p class='x'>Two &lt;b&gt;</p>", "\nOne\n\nTwo <b>\n"),
        ("a <!-- gone\n --> b<script>var x = '<p>';</script>c", "a  bc"),
        ('see <a href="x>y">this</a>, <span style=color:red>that</span>', "see this, that"),
        ("<td>1</td><td>2</td>", "1\t2\t"),
        ("caf&eacute; &#20320;&#x597d; &hellip;", "café 你好 …"),
    ],
)
def test_html_goes(text: str, wanted: str) -> None:
    assert strip_html(text, Changes()) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "std::vector<int> v; List<String> x; a < b && c > d; #include <stdio.h>; Map<a, b>",
        "mail <you@home.org>, write <your name>, Box<T>, ls <i>", "AT&T, R&D; x &undefined; &copy=1",
        "`<br>` makes a break:\n```html\n<p>&amp;</p>\n```\n", "if x <y and z> 3", "1 <2 >0",
    ],
)  # fmt: skip
def test_what_is_no_html_stays(text: str) -> None:
    assert strip_html(text, Changes()) == text

"""Rewards that can be verified: functions of an answer and what is right, with no model in them.

Each gives 0 … 1: 1 for right, a little for the right form, which is what a model can find by chance and grow from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

FORM = 0.1
"""Reward of a wrong answer in the right form."""

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def exact(answer: str, right: str) -> float:
    """1 if the answer is the right one but for white space and letter case.

    >>> exact(" Paris\\n", "paris"), exact("Paris, of course", "paris")
    (1.0, 0.0)
    """
    return float(" ".join(answer.split()).casefold() == " ".join(right.split()).casefold())


def number(answer: str, right: str) -> float:
    """1 if the last number of the answer is the right one, 0.1 for a wrong number.

    >>> number("17 + 5 = 22.", "22"), number("I say 21", "22"), number("no idea", "22")
    (1.0, 0.1, 0.0)
    """
    found = NUMBER.findall(answer.replace(",", ""))
    if not found:
        return 0.0
    return 1.0 if float(found[-1]) == float(right) else FORM


def json_fields(answer: str, right: str) -> float:
    """0.1 for valid JSON; the rest in shares for each field that has the right value and for no field too many.

    >>> json_fields('{"a": 1, "b": 2}', '{"a": 1, "b": 2}'), json_fields('{"a": 1}', '{"a": 1, "b": 2}')
    (1.0, 0.55)
    >>> json_fields("a = 1", '{"a": 1}')
    0.0
    """
    try:
        found, expected = json.loads(answer), json.loads(right)
    except ValueError:
        return 0.0
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return 1.0 if found == expected else FORM
    names = expected.keys() | found.keys()
    same = sum(name in expected and name in found and _same(found[name], expected[name]) for name in names)
    return FORM + (1 - FORM) * same / max(1, len(names))


def _same(found: Any, expected: Any) -> bool:
    return type(found) is type(expected) and bool(found == expected)


def matches(answer: str, right: str) -> float:
    """1 if the whole answer matches the regular expression.

    >>> matches("yes", "yes|no"), matches("yes!", "yes|no")
    (1.0, 0.0)
    """
    return float(re.fullmatch(right, answer.strip(), re.DOTALL) is not None)


REWARDS: dict[str, Callable[[str, str], float]] = {
    "exact": exact,
    "number": number,
    "json": json_fields,
    "regex": matches,
}

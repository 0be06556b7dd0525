"""The tree of errors: few, coded, documented, picklable."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mojiang.core import errors
from mojiang.core.errors import MojiangError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, MojiangError)]


def test_codes_are_unique_and_few() -> None:
    assert len({c.code for c in CLASSES}) == len(CLASSES) <= 10


@pytest.mark.parametrize("error", CLASSES)
def test_each_is_drawn_documented_and_survives_a_process_border(error: type[MojiangError]) -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if error.__name__ in line]
    assert error.code in drawn[0]
    assert f"exit {error.exit_code}" in drawn[0]
    pages = (Path(__file__).parents[2] / "docs" / "concepts" / "errors.md").read_text(encoding="utf-8")
    assert f"## {error.code} {error.__name__}" in pages
    copy = pickle.loads(pickle.dumps(error("what", hint="do")))
    assert (type(copy), copy.message, copy.hint) == (error, "what", "do")

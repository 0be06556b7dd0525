"""The generated pages are as the catalog would write them now."""

from __future__ import annotations

from mojiang.cli.reference import main


def test_the_pages_are_up_to_date() -> None:
    assert main(["--check"]) == 0, "run `make docs`"

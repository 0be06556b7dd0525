"""What a person sees: numbers, durations, progress, tables."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mojiang.cli import render
from mojiang.core.errors import BadInput
from mojiang.core.events import Event


def test_an_error_is_one_message_and_one_hint(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_error(BadInput("3 of [4] files", hint="look [here]"))
    assert capsys.readouterr().err == "error E200: 3 of [4] files\nhint: look [here]\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7325, "2 h 2 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_what_is_no_number_is_shown_and_breaks_nothing() -> None:
    assert [render.number(x) for x in (float("nan"), float("inf"), True)] == ["nan", "inf", "True"]


def test_progress_says_rate_and_time_left() -> None:
    listener = render.Progressing(terminal=False)
    listener.console = Console(file=io.StringIO(), width=200)
    listener.PLAIN_SECONDS = 0
    listener(Event("progress", "r", {"done": 0, "total": 1000, "unit": "tokens", "loss": 3.0}, time=100.0))
    listener(Event("progress", "r", {"done": 500, "total": 1000, "unit": "tokens", "loss": 2.5}, time=110.0))
    lines = listener.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[-1].strip() == "500/1.00k tokens · 50 tokens/s · 10 s left · loss 2.5"


def test_quiet_shows_only_warnings() -> None:
    listener = render.Progressing(terminal=False, quiet=True)
    listener.console = Console(file=io.StringIO(), width=200)
    listener(Event("log", "r", {"level": "info", "text": "hello"}))
    listener(Event("log", "r", {"level": "warning", "text": "careful"}))
    assert listener.console.file.getvalue() == "  warning: careful\n"  # type: ignore[attr-defined]


def test_a_piped_table_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 120
    render.table(["name", "count"], [[long, 12345]])
    assert long in capsys.readouterr().out

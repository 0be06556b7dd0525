"""What a person sees. Data goes to standard output; logs, progress and errors to standard error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from mojiang.core.errors import MojiangError
from mojiang.core.events import Event
from mojiang.core.report import Report


def stdout() -> Console:
    """The console for data. Made on each call, so that tests and pipes see the current stream."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """The console for logs, progress and errors."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def print_error(error: MojiangError) -> None:
    """`error CODE: what happened` and `hint: what to do`."""
    console = stderr()
    console.print(f"[bold red]error {error.code}:[/] {escape(error.message)}")
    if error.hint:
        console.print(f"[cyan]hint:[/] {escape(error.hint)}")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """A table on standard output; numbers align right. Piped output is not cut."""
    console = stdout()
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    view = Table(title=title or None, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column, right in zip(columns, numeric, strict=True):
        view.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        view.add_row(*(escape(number(cell)) for cell in row))
    if not console.is_terminal:
        console.width = 200
    console.print(view)


def number(value: Any) -> str:
    """A cell as text: thousands separated, four significant digits.

    >>> number(1234567), number(1.93843), number(None)
    ('1,234,567', '1.938', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.42), duration(75), duration(7260)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(999), size(12_118_641)
    ('999 B', '12.1 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def print_report(report: Report, samples: int = 3) -> None:
    """A report as text."""
    console = stdout()
    console.print(f"[bold]{escape(report.title)}[/]")
    if report.verdict:
        console.print(escape(report.verdict))
    if report.scalars:
        table(["metric", "value"], [[name, value] for name, value in report.scalars.items()])
    for item in report.tables:
        console.print()
        table(item.columns, item.rows, title=item.title)
    for finding in report.findings:
        colour = {"info": "cyan", "warning": "yellow", "error": "red"}[finding.level]
        console.print(f"[{colour}]{finding.level}:[/] {escape(finding.text)}")
    for sample in report.samples[:samples]:
        console.print(f"\n[bold]{escape(sample.title)}[/]\n[dim]{escape(sample.prompt)}[/]{escape(sample.text)}")


class Progressing:
    """Shows a run's events while it works: a live bar on a terminal, plain lines elsewhere."""

    PLAIN_SECONDS = 10.0

    def __init__(self, terminal: bool, quiet: bool = False) -> None:
        self.terminal, self.quiet = terminal, quiet
        self.console = stderr()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._begun: dict[str, tuple[float, float]] = {}
        self._last_plain = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        if event.kind == "log":
            if not self.quiet or event.data["level"] != "info":
                style = {"warning": "yellow", "error": "red"}.get(event.data["level"], "")
                prefix = "warning: " if event.data["level"] == "warning" else ""
                self.console.print(f"  {prefix}{event.data['text']}", style=style, markup=False)
        elif event.kind == "progress" and not self.quiet:
            self._progress(event)
        elif event.kind == "status" and event.data.get("status") != "running":
            self.stop()

    def _progress(self, event: Event) -> None:
        text = self._describe(event)
        if self.terminal:
            if self._bar is None:
                columns = (TextColumn("  "), BarColumn(28), TextColumn("{task.description}"))
                self._bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=5)
                self._task = self._bar.add_task("", total=1.0)
                self._bar.start()
            assert self._task is not None
            share = event.data["done"] / max(event.data["total"], 1e-9)
            self._bar.update(self._task, completed=share, description=escape(text))
        elif event.time and time.monotonic() - self._last_plain >= self.PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self.console.print(f"  {text}", markup=False)

    def _describe(self, event: Event) -> str:
        """`1.2M/6.0M tokens · 41k tokens/s · 1 min 58 s left · loss 2.31`."""
        data = dict(event.data)
        done, total, unit = data.pop("done"), data.pop("total"), data.pop("unit", "")
        begun = self._begun.setdefault(f"{event.run}/{unit}", (event.time, done))
        elapsed, work = event.time - begun[0], done - begun[1]
        parts = [f"{short(done)}/{short(total)} {unit}".rstrip()]
        if elapsed > 0.5 and work > 0:
            rate = work / elapsed
            shown = short(rate) if rate >= 9.5 else f"{rate:.2g}"  # a few a second, or seconds for each
            parts += [f"{shown} {unit}/s".replace(" /", "/"), f"{duration((total - done) / rate)} left"]
        parts += [f"{name.replace('_', ' ')} {number(value)}" for name, value in data.items()]
        return " · ".join(parts)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def short(count: float) -> str:
    """A count in at most four characters and a unit.

    >>> short(950), short(41_230), short(6_000_000)
    ('950', '41.2k', '6.00M')
    """
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return (
                f"{count / limit:.3g}{unit}"
                if count / limit >= 100
                else f"{count / limit:.{2 if count / limit < 10 else 1}f}{unit}"
            )
    return f"{count:.0f}"

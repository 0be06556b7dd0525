"""A Report is data: scalars, tables, series, findings, verdict. Drawing it is somebody else's job."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mojiang.core.config import Config
from mojiang.core.errors import Corrupted, NotFound
from mojiang.core.files import atomic_write

Cell = str | int | float | None


class Table(Config):
    """Rows under named columns."""

    title: str
    columns: list[str]
    rows: list[list[Cell]] = Field(default_factory=list)


class Series(Config):
    """Lines over one x axis."""

    title: str
    x_label: str
    y_label: str
    x: list[float]
    lines: dict[str, list[float]]


class Finding(Config):
    """One sentence a reader should not miss."""

    level: Literal["info", "warning", "error"]
    text: str


class Sample(Config):
    """What the model wrote for a prompt."""

    title: str
    prompt: str
    text: str


class Report(Config):
    """The outcome of a measurement.

    >>> Report(title="held-out", scalars={"bits_per_byte": 1.7}).scalars["bits_per_byte"]
    1.7
    """

    title: str
    scalars: dict[str, float] = Field(default_factory=dict)
    tables: list[Table] = Field(default_factory=list)
    series: list[Series] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    samples: list[Sample] = Field(default_factory=list)
    verdict: str = ""

    def save(self, folder: Path) -> None:
        """Write `report.json` into `folder`."""
        atomic_write(folder / "report.json", self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read `report.json` of an artifact's folder."""
        path = folder / "report.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"there is no report in {folder}", hint="`mojiang ls report` lists the reports") from None
        except ValueError as error:
            raise Corrupted(f"{path} is not a report: {error}", hint="remove the artifact and make it again") from error

    def table(self, title: str) -> Table:
        """The table of that title."""
        for table in self.tables:
            if table.title == title:
                return table
        raise NotFound(f"the report has no table {title!r}", hint=f"it has: {', '.join(t.title for t in self.tables)}")

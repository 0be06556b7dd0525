"""Reports are data."""

from __future__ import annotations

from pathlib import Path

import pytest

from mojiang.core.errors import Corrupted, NotFound
from mojiang.core.report import Finding, Report, Table


def test_round_trip(tmp_path: Path) -> None:
    report = Report(
        title="测试", scalars={"x": 1.5}, tables=[Table(title="t", columns=["a"], rows=[[1], ["b"], [None], [2.5]])],
        findings=[Finding(level="warning", text="careful")],
    )  # fmt: skip
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    assert report.table("t").rows[1] == ["b"]
    with pytest.raises(NotFound, match="no table 'u'"):
        report.table("u")


def test_missing_and_damaged(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_text('{"title": 3}')
    with pytest.raises(Corrupted):
        Report.load(tmp_path)

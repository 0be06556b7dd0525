"""What the machine can do, against what the system itself says."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import pytest

from mojiang.deploy import doctor
from mojiang.deploy.doctor import diagnose


def cells(path: Path) -> dict[str, object]:
    return {str(row[0]): row[1] for row in diagnose(path).tables[0].rows}


def test_it_agrees_with_the_system(tmp_path: Path) -> None:
    found = cells(tmp_path)
    assert found["python"] == platform.python_version()
    assert 1 <= int(str(found["cores usable"])) <= (os.cpu_count() or 1)
    assert str(found["memory"]).startswith(f"{psutil.virtual_memory().total / 1e9:.1f} GB")


def test_a_missing_package_comes_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"no-such-package": "core", "nor-this": "postgres"})
    report = diagnose(tmp_path)
    assert report.tables[1].rows == [
        ["no-such-package", "missing", "pip install 'mojiang'"],
        ["nor-this", "missing", "pip install 'mojiang[postgres]'"],
    ]
    assert [finding.level for finding in report.findings if "no-such-package" in finding.text] == ["error"]
    assert "to look at" in report.verdict


def test_no_compiler_and_little_room_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor, "LEAST_FREE_DISK", 1e18)
    monkeypatch.setattr(doctor, "LEAST_FREE_MEMORY", 1e18)
    said = " ".join(finding.text for finding in diagnose(tmp_path).findings)
    for part in ("no C++ compiler", "mojiang gc", "memory are free"):
        assert part in said

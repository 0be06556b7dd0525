"""The store's commands, as a user gives them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mojiang.cli.main import main


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("MOJIANG_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str, code: int = 0) -> Any:
        assert main([*words, "--json"]) == code
        captured = capsys.readouterr()
        run.out, run.err = captured.out, captured.err  # type: ignore[attr-defined]
        return json.loads(captured.out.splitlines()[-1])

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "texts"
    source.mkdir()
    for index in range(6):
        (source / f"{index}.txt").write_text(f"Document number {index}.\n" + "A line of plain text.\n" * 20)
    (source / "copy.txt").write_text((source / "0.txt").read_text())
    (source / "empty.txt").write_text("")
    return source


@pytest.fixture
def chain(ask: Any, folder: Path) -> Any:
    ask("data", "load", "--source", str(folder))
    ask("data", "clean", "--data", "load")
    ask("data", "dedup", "--data", "clean")
    return ask


def test_ls_show_and_lineage(chain: Any, folder: Path) -> None:
    assert [a["artifact"] for a in chain("ls")["artifacts"]] == ["load@1", "clean@1", "dedup@1"]
    assert chain("ls", "model") == {"artifacts": []}
    shown = chain("show", "dedup")
    assert shown["manifest"]["recipe"] == "data.dedup@2"
    assert "documents kept" in chain.out or "documents_kept" in chain.out
    lineage = chain("lineage", "dedup")["lineage"]
    assert [a["artifact"] for a in lineage] == ["dedup@1", "clean@1", "load@1"]
    assert str(folder) in chain.out
    assert "0.txt" in chain.out


def test_why_dropped_names_the_step(chain: Any) -> None:
    answer = chain("show", "dedup", "--why-dropped", "copy.txt")["answer"]
    assert chain("lineage", "dedup", "--why-dropped", "copy.txt")["answer"] == answer
    assert any("dedup" in str(line) and "dropped" in str(line).lower() for line in answer), answer
    kept = chain("show", "dedup", "--why-dropped", "1.txt")["answer"]
    assert "kept" in str(kept[-1]).lower()
    error = chain("show", "dedup", "--why-dropped", "unheard-of.txt", code=2)["error"]
    assert "unheard-of.txt" in error["message"]


def test_diff_leads_to_the_first_cause(chain: Any, folder: Path) -> None:
    chain("data", "clean", "--data", "load", "--min-characters", "9")
    chain("data", "dedup", "--data", "clean@2")
    rows = chain("diff", "dedup@1", "dedup@2")["differences"]
    assert rows == [{"what": "data › min_characters", "dedup@1": "8", "dedup@2": "9"}]
    assert chain("diff", "dedup@1", "dedup@1")["differences"] == []


def test_alias_rm_and_gc(chain: Any) -> None:
    chain("alias", "load", "raw")
    assert chain("show", "load@raw")["artifact"] == "load@1"
    assert "used by clean@1" in chain("rm", "load", code=1)["error"]["message"]
    chain("data", "clean", "--data", "load", "--min-characters", "9")
    chain("data", "clean", "--data", "load", "--min-characters", "10")
    assert chain("gc", "--dry-run")["artifacts"] == ["clean@2"]
    assert chain("gc")["artifacts"] == ["clean@2"]
    assert chain("rm", "dedup")["removed"] == "dedup@1"


def test_export_and_import_keep_history(chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = chain("show", "dedup")
    chain("export", "dedup", str(tmp_path / "out"))
    assert "is there already" in chain("export", "dedup", str(tmp_path / "out"), code=2)["error"]["message"]
    monkeypatch.setenv("MOJIANG_WORKSPACE", str(tmp_path / "other"))
    assert chain("import", str(tmp_path / "out"))["fingerprint"] == original["fingerprint"]
    assert chain("show", "dedup")["manifest"]["parents"] == original["manifest"]["parents"]
    chain("import", str(tmp_path / "out"))
    assert len(chain("ls")["artifacts"]) == 1
    victim = next((tmp_path / "out").glob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    assert chain("import", str(tmp_path / "out"), code=1)["error"]["code"] == "E400"
    assert chain("import", str(tmp_path), code=1)["error"]["code"] == "E200"


def test_a_damaged_artifact_is_refused_and_named(chain: Any) -> None:
    path = Path(chain("show", "clean")["path"])
    victim = next(path.glob("documents*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    error = chain("data", "normalize", "--data", "clean", code=1)["error"]
    assert error["code"] == "E400"
    assert "clean@1 is damaged" in error["message"]
    assert len(chain("ls")["artifacts"]) == 3


def test_a_folder_outside_is_never_removed_and_prod_is_not_given_by_hand(chain: Any, tmp_path: Path) -> None:
    chain("export", "dedup", str(tmp_path / "out"))
    assert "outside this store" in chain("rm", str(tmp_path / "out"), code=2)["error"]["message"]
    assert (tmp_path / "out" / "artifact.json").is_file()
    assert "mojiang promote" in chain("alias", "dedup", "prod", code=2)["error"]["hint"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "a@b", "", " ", "/tmp/x"])
def test_a_name_cannot_leave_the_workspace(ask: Any, folder: Path, tmp_path: Path, name: str) -> None:
    if name:
        assert ask("data", "load", "--source", str(folder), "--name", name, code=2)["error"]["code"] == "E100"
    ask("data", "load", "--source", str(folder))
    ask("export", "load", str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "artifact.json").read_text())
    (tmp_path / "out" / "artifact.json").write_text(json.dumps({**manifest, "name": name}))
    assert ask("import", str(tmp_path / "out"), code=1)["error"]["code"] == "E400"


def test_an_added_file_is_noticed(chain: Any, tmp_path: Path) -> None:
    chain("export", "dedup", str(tmp_path / "out"))
    (tmp_path / "out" / "extra.bin").write_bytes(b"x")
    assert "extra.bin does not belong" in chain("import", str(tmp_path / "out"), code=1)["error"]["message"]


def test_runs_and_logs(chain: Any) -> None:
    runs = chain("runs")["runs"]
    assert [run["status"] for run in runs] == ["done"] * 3
    chain("logs", runs[0]["id"])
    assert "status=done" in chain.out
    assert "is done" in chain("resume", runs[0]["id"], code=1)["error"]["message"]
    assert "is not running" in chain("stop", runs[0]["id"], code=1)["error"]["message"]


def test_stop_and_resume_a_pipeline(ask: Any, folder: Path, tmp_path: Path) -> None:
    """A kill in the middle of a pipeline: the next command marks both runs, `resume` finishes the pipeline."""
    slow = tmp_path / "slow.yaml"
    for index in range(3000):
        (folder / f"more-{index}.txt").write_text(f"Text {index}. " * 200)
    slow.write_text(
        f"name: p\nsteps:\n  a: {{recipe: data.load, source: {folder}}}\n  b: {{recipe: data.clean, data: a}}\n"
    )
    command = [sys.executable, "-m", "mojiang.cli.main", "run", str(slow)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = ask("runs")["runs"]
        if any(run["recipe"] == "data.load" for run in runs):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    runs = ask("runs")["runs"]
    assert "running" not in {run["status"] for run in runs}
    pipeline = next(run for run in runs if run["recipe"] == "pipeline")
    assert pipeline["status"] == "interrupted"
    assert ask("resume", pipeline["id"])["artifact"] == "p-b@1"
    assert {run["status"] for run in ask("runs")["runs"]} == {"done"}


def test_find_list_explain_plugins_doctor(ask: Any) -> None:
    names = [c["name"] for c in ask("list")["capabilities"]]
    assert "data.dedup" in names
    assert any("dedup" in row["command"] for row in ask("find", "copies")["found"])
    assert ask("find", "zzzzqq")["found"] == []
    explained = ask("explain", "data.split")
    assert "validation" in explained["schema"]["properties"]
    assert set(names) == {n for p in ask("plugins")["plugins"] if p["source"] == "mojiang" for n in p["capabilities"]}
    report = ask("doctor")["report"]
    assert {table["title"] for table in report["tables"]} == {"machine", "packages"}

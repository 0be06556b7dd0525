"""The front door: exit codes, errors with hints, one JSON line, no tracebacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mojiang.cli.main import main
from mojiang.core import store as store_module


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOJIANG_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.delenv("MOJIANG_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["shwo"], "'shwo' is not a command", "did you mean 'show'?"),
        (["train", "stf"], "no capability 'train.stf'", "'train.sft'"),
        (["data", "load", "--sorce", "x", "--source", "y"], "unknown flag '--sorce'", "did you mean '--source'?"),
        (["data", "load"], "'source' is required", "give --source"),
        (["ls", "modle"], "'modle' is not a kind", "did you mean 'model'?"),
        (["show", "nothing"], "no artifact is called 'nothing'", "the store is empty"),
        (["logs", "1"], "no run is called '1'", "mojiang runs"),
        (["run", "none.yaml"], "no file 'none.yaml'", "check the path"),
        (["run", "quickstart", "--set", "x"], "'x' is not KEY=VALUE", "for example"),
        (["run", "quickstart", "--set", "chta.minutes=3"], "no setting 'chta.minutes'", "chat"),
        (["quickstart", "--minutes", "soon"], "invalid float value", "--help"),
        (["data", "dedup", "--data", "absent"], "no artifact is called 'absent'", "empty"),
    ],
)
def test_bad_usage_is_exit_2_with_a_hint(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str, hint: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert said in err
    assert hint in err
    assert "Traceback" not in err


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "nothing", "--json")
    error = json.loads(out.splitlines()[-1])["error"]
    assert (code, error["code"], error["exit_code"]) == (2, "E300", 2)
    assert error["hint"]


def test_a_defect_shows_no_traceback_unless_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, kind: str = "") -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(store_module.Store, "artifacts", broken)
    code, _, err = run(capsys, "ls")
    assert code == 1
    assert "ZeroDivisionError: planted" in err
    assert "Traceback" not in err
    with pytest.raises(ZeroDivisionError):
        main(["ls", "--debug"])


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_the_first_page_names_everything(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    from mojiang.cli.commands import COMMANDS
    from mojiang.core.catalog import load_catalog

    code, out, _ = run(capsys, *words)
    assert code == 0
    for group in COMMANDS.values():
        for word in group:
            assert f"  {word} " in out
    for entry in load_catalog():
        assert entry.word in out


def test_global_flags_before_and_after(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (
        ["--workspace", str(tmp_path / "a"), "--json", "ls"],
        ["ls", "--json", "--workspace", str(tmp_path / "a")],
    ):
        code, out, _ = run(capsys, *words)
        assert code == 0
        assert json.loads(out) == {"artifacts": []}
    assert (tmp_path / "a" / "store.db").exists()


def test_version_and_group_help(capsys: pytest.CaptureFixture[str]) -> None:
    import mojiang

    assert run(capsys, "--version")[1] == f"mojiang {mojiang.__version__}\n"
    code, out, _ = run(capsys, "data")
    assert code == 0
    assert "dedup" in out


def test_json_of_a_recipe_is_the_last_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some text that is long enough to be kept.\n" * 5)
    code, out, err = run(capsys, "data", "load", "--source", str(tmp_path / "a.txt"), "--json")
    assert code == 0, err
    record = json.loads(out.splitlines()[-1])
    assert set(record) >= {"run", "artifact", "fingerprint", "path", "kind", "metrics", "seconds"}
    assert (record["artifact"], record["kind"]) == ("load@1", "dataset")
    assert Path(record["path"]).is_dir()


def test_dry_run_runs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some text.\n" * 50)
    words = ["data", "load", "--source", str(tmp_path / "a.txt"), "--json"]
    code, out, err = run(capsys, *words, "--dry-run")
    assert code == 0
    assert json.loads(out)["done"] is None
    assert "never run here" in err
    assert json.loads(run(capsys, "runs", "--json")[1].splitlines()[-1]) == {"runs": []}
    run(capsys, *words)
    assert json.loads(run(capsys, *words, "--dry-run")[1])["done"] == "load@1"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m mojiang.cli.main list | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr

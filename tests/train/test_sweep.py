from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mojiang
from mojiang.core.catalog import Catalog
from mojiang.core.errors import BadUsage, RunFailed
from mojiang.core.report import Report
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.train import _nested, _search
from mojiang.train.sweep import Sweep

pytest.importorskip("optuna")
HERE = str(Path(__file__).parent)
SPACE = {"shape.x": {"low": -1.0, "high": 1.0}, "size": {"low": 1, "high": 8}}


def toy_catalog() -> Catalog:
    catalog = Catalog()
    catalog.add("toy", "bowl", "toy_recipes:Bowl", "A loss with a known minimum")
    return catalog


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(_nested, "load_catalog", toy_catalog)


def swept(store: Store, **settings: Any) -> tuple[Report, dict[str, Any]]:
    recipe = Sweep(**{"of": "toy.bowl", "space": SPACE, "trials": 6, **settings})
    artifact = execute(recipe, store, name="sweep").artifact
    return Report.load(artifact.path), artifact.metrics


def ran(store: Store) -> list[str]:
    return [line.split(" ", 1)[1] for line in (store.workspace / "ran.txt").read_text().splitlines()]


def test_tpe_finds_the_minimum(store: Store) -> None:
    report, metrics = swept(store, trials=40)
    assert report.scalars["best_value"] < 0.05
    found = dict(report.table("best settings").rows)
    assert found["size"] == 4
    assert found["shape.x"] == pytest.approx(0.3, abs=0.25)
    best = store.get("sweep-trial@best")
    assert best.ref == metrics["best"]
    assert best.metrics["validation_loss"] == report.scalars["best_value"]
    values = [row[2] for row in report.table("trials").rows]
    assert report.series[0].lines["best"] == [min(values[: n + 1]) for n in range(len(values))]


def test_the_setting_that_matters_is_named(store: Store) -> None:
    space = {"x": {"low": 0.29, "high": 0.31}, "size": {"low": 5, "high": 60}}
    report, _ = swept(store, space=space, sampler="random", trials=14)
    rows = {row[0]: row for row in report.table("importance").rows}
    assert rows["size"][1] > rows["x"][1]
    assert rows["size"][2] == pytest.approx(1, abs=0.02), "the loss rises with it"
    assert any("size" in finding.text and "widen" in finding.text for finding in report.findings)


def test_a_grid_takes_every_combination_once(store: Store) -> None:
    space = {"kind": ["bad", "good"], "size": {"low": 2, "high": 6, "step": 2}}
    report, _ = swept(store, space=space, sampler="grid", trials=50)
    assert [row[3:5] for row in report.table("trials").rows] == [[k, s] for k in ("bad", "good") for s in (2, 4, 6)]
    assert dict(report.table("best settings").rows) == {"kind": "good", "size": 4}


def test_the_same_seed_gives_the_same_trials_and_a_longer_sweep_begins_with_them(store: Store, tmp_path: Path) -> None:
    first, _ = swept(store, trials=12)
    again, _ = swept(mojiang.open(tmp_path / "other"), trials=12)
    assert again.table("trials").rows == first.table("trials").rows
    longer, _ = swept(store, trials=14)
    assert longer.table("trials").rows[:12] == first.table("trials").rows
    assert len(ran(store)) == 14, "what was in the store did not run again"


def test_parallel_trials_run_in_processes_and_are_repeatable(store: Store, tmp_path: Path) -> None:
    first, _ = swept(store, trials=4, parallel=2)
    again, _ = swept(mojiang.open(tmp_path / "other"), trials=4, parallel=2)
    settings = [row[:5] for row in first.table("trials").rows]
    assert [row[:5] for row in again.table("trials").rows] == settings
    processes = {line.split()[0] for line in (store.workspace / "ran.txt").read_text().splitlines()}
    assert str(os.getpid()) not in processes


SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
import mojiang, test_sweep
from mojiang.core.run import execute
from mojiang.train import _nested
_nested.load_catalog = test_sweep.toy_catalog
recipe = test_sweep.Sweep(of="toy.bowl", space=test_sweep.SPACE, trials=12, settings={"seconds": 0.03})
execute(recipe, mojiang.open(sys.argv[2]), name="sweep")
"""


def test_a_killed_sweep_goes_on_without_repeating_a_trial(tmp_path: Path) -> None:
    killed, quiet = mojiang.open(tmp_path / "killed"), mojiang.open(tmp_path / "quiet")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, HERE, str(killed.workspace)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(killed.artifacts()) < 4:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {artifact.fingerprint for artifact in killed.artifacts()}
    assert 4 <= len(done) < 12
    report, _ = swept(killed, trials=12, settings={"seconds": 0.03})
    undisturbed, _ = swept(quiet, trials=12, settings={"seconds": 0.03})
    assert [row[:5] for row in report.table("trials").rows] == [row[:5] for row in undisturbed.table("trials").rows]
    assert done <= {artifact.fingerprint for artifact in killed.artifacts()}
    assert len(killed.artifacts("report")) == 13
    assert len(ran(killed)) - 12 <= 1, "only the trial that was cut short ran twice"


def test_the_pruner_ends_what_falls_behind(store: Store) -> None:
    report, _ = swept(store, trials=12, pruner="median", sampler="random")
    rows = report.table("trials").rows
    assert report.scalars["pruned"] == sum(row[1] == "pruned" for row in rows) > 0
    done = sorted(row[2] for row in rows if row[1] == "complete")
    for row in rows:
        if row[1] == "pruned":
            x, size = row[3], row[4]
            assert (x - 0.3) ** 2 + (size - 4) ** 2 / 10 > done[0], "the best is not pruned"
    cut = [run for run in store.runs() if run["status"] == "interrupted"]
    assert len(cut) == report.scalars["pruned"]
    assert all("pruned at step" in run["error"] for run in cut)
    assert not any((store.workspace / "scratch" / run["fingerprint"]).exists() for run in cut)


def test_a_trial_that_fails_is_counted_and_hopeless_ones_end_it(store: Store) -> None:
    report, _ = swept(store, space={"fails": [False, True]}, sampler="grid")
    assert (report.scalars["done"], report.scalars["failed"]) == (1, 1)
    assert report.table("trials").rows[1][-1] == "this one fails"
    with pytest.raises(RunFailed, match="the first 3 trials failed: this one fails"):
        swept(store, settings={"fails": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "validation_los"}, "no metric 'validation_los'"),
        ({"space": {"sise": [1, 2]}}, "unknown key 'sise'"),
        ({"sampler": "grid"}, "grid over"),
    ],
)
def test_mistakes_are_said(store: Store, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((BadUsage, RunFailed), match=message):
        swept(store, **settings)


def test_settings_come_as_words_too() -> None:
    sweep = Sweep(of="toy.bowl", settings="{kind: good}", space='{"x": {"low": 1e-3, "high": 1, "log": true}}')
    assert sweep.settings == {"kind": "good"}
    assert sweep.space["x"] == _search.Range(low=1e-3, high=1, log=True)
    with pytest.raises(ValueError, match="give it once"):
        Sweep(of="toy.bowl", settings={"x": 1}, space={"x": [1]})


def test_rank_correlation_is_spearmans() -> None:
    from scipy.stats import spearmanr

    xs, ys = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0], [2.0, 7.0, 1.0, 8.0, 2.0, 8.0]
    assert _search.rank_correlation(xs, ys) == pytest.approx(spearmanr(xs, ys).statistic)

"""Trackers, read back with the trackers' own readers."""

from __future__ import annotations

import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadUsage, Unavailable
from mojiang.core.events import Event, read_events
from mojiang.core.recipe import Metrics, Recipe
from mojiang.core.run import Circumstance, Run, execute
from mojiang.core.store import Store
from mojiang.observe import _track
from mojiang.observe._track import Tracker

LOSSES = {1: 4.0, 2: 2.0, 3: 1.0, 4: 0.5, 5: 0.25}


class Curve(Recipe):
    """A run with a curve; the first attempt ends after step 3, the second begins again at step 3."""

    recipe: ClassVar[str] = "test.curve"
    makes: ClassVar[Kind] = "report"
    stochastic: ClassVar[bool] = True

    rate: float = 0.5
    """A setting."""
    breaks: bool = False
    """Whether the first attempt fails."""

    def run(self, run: Run) -> Metrics:
        """Halve the loss."""
        again = (run.scratch / "checkpoint").exists()
        for step, loss in LOSSES.items():
            if again and step < 3:
                continue
            run.metrics(step, loss=loss, gradient_norm=float("nan") if step == 2 else 1.0)
            if step == 3 and self.breaks and not again:
                (run.scratch / "checkpoint").touch()
                raise RuntimeError("the power went out")
        run.metrics(5, validation_loss=0.3)
        (run.out / "report.json").write_text("{}")
        return {"validation_loss": 0.3, "precision": "fp32"}


Follow = Callable[..., str]


@pytest.fixture
def follow(store: Store) -> Follow:
    """`follow(tracker, breaks)`: the id of a tracked run, continued where it breaks."""

    def one(name: str, breaks: bool = False) -> str:
        for _ in range(1 + breaks):
            circumstance = Circumstance(listeners=(Tracker(name, store),))
            try:
                return execute(Curve(breaks=breaks), store, name="curve", seed=3, circumstance=circumstance).run
            except RuntimeError:
                assert breaks
                time.sleep(1.1)  # wandb names an attempt's folder by the second
        raise AssertionError("the second attempt failed as well")

    return one


@pytest.mark.parametrize("breaks", [False, True])
def test_tensorboard_reads_every_point_once(follow: Follow, store: Store, breaks: bool) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = follow("tensorboard", breaks)
    found = reader.EventAccumulator(str(store.workspace / "tensorboard" / run), size_guidance={"scalars": 0}).Reload()
    assert {point.step: point.value for point in found.Scalars("loss")} == LOSSES
    assert len(found.Scalars("loss")) == len(LOSSES)
    assert [point.step for point in found.Scalars("gradient_norm")] == [1, 3, 4, 5], "a NaN is no point"
    assert found.Scalars("final/validation_loss")[0].value == pytest.approx(0.3)
    plugin = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    settings = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert settings["rate"].number_value == 0.5
    assert settings["seed"].number_value == 3
    text = found.Tensors("outcome/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "done" in text
    assert "curve@1" in text


def finished_records(path: Path) -> list[Any]:
    """All records, once wandb's own process has written the last one."""
    for _ in range(300):
        records = list(wandb_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError("wandb did not finish its file")


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, in blocks of 32 KiB behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_keeps_the_run_offline(
    follow: Follow, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    run = follow("wandb", True)
    attempts = store.workspace.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb")
    records = finished_records(max(attempts))  # the last one tells the whole story
    history = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert {int(row["step"]): float(row["loss"]) for row in history if "loss" in row} == LOSSES
    begun = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert begun.run_id == run
    assert {item.key: item.value_json for item in begun.config.update}["rate"] == "0.5"
    summary = {
        (item.nested_key[0] if item.nested_key else item.key): item.value_json
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert (summary["validation_loss"], summary["outcome"], summary["ref"]) == ("0.3", '"done"', '"curve@1"')


def test_mlflow_goes_on_with_the_same_run(follow: Follow, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    run = follow("mlflow", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{store.workspace / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("mojiang")
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == 1
        [one] = runs
        history = client.get_metric_history(one.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == sorted(LOSSES.items())
    assert one.info.status == "FINISHED"
    assert one.data.params["rate"] == "0.5"
    assert one.data.metrics["final/validation_loss"] == pytest.approx(0.3)
    assert one.data.tags["mojiang.run"] == run
    assert one.data.tags["mojiang.ref"] == "curve@1"


def test_tracking_does_not_change_the_fingerprint(follow: Follow, store: Store) -> None:
    run = follow("tensorboard")
    assert execute(Curve(), store, seed=3).reused
    assert store.get_run(run)["status"] == "done"


def test_a_missing_package_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setattr(_track.importlib.util, "find_spec", lambda name: None)
    for name, (_, _, command) in _track.TRACKERS.items():
        with pytest.raises(Unavailable, match=f"--track {name}") as caught:
            Tracker(name, store)
        assert caught.value.hint == command
        assert command.startswith("pip install ")


def test_an_unknown_tracker_is_refused(store: Store) -> None:
    with pytest.raises(BadUsage) as caught:
        Tracker("tensorbord", store)
    assert "tensorboard" in caught.value.hint


class Failing:
    """A tracker whose disk is full from the second point on."""

    last = -1
    calls: ClassVar[list[int]] = []

    def __init__(self, workspace: Path, facts: _track.Facts) -> None:
        pass

    def point(self, step: int, values: dict[str, float]) -> None:
        self.calls.append(step)
        if step > 1:
            raise OSError("no space left")

    def end(self, status: str, summary: dict[str, Any]) -> None:
        raise AssertionError("a tracker that failed is left alone")


def test_a_failing_tracker_costs_one_warning(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    from mojiang.observe import tensorboard

    monkeypatch.setattr(tensorboard, "TensorBoard", Failing)
    heard: list[Event] = []
    outcome = execute(
        Curve(),
        store,
        name="curve",
        circumstance=Circumstance(listeners=(Tracker("tensorboard", store, heard.append),)),
    )
    assert outcome.artifact.metrics["validation_loss"] == 0.3
    assert Failing.calls == [1, 2]
    logged = [event for event in read_events(store.events_path(outcome.run)) if event.kind == "log"]
    assert [event.data["level"] for event in logged] == ["warning"]
    assert "no space left" in logged[0].data["text"]
    assert [event.data for event in heard] == [event.data for event in logged]


def test_the_command_line_tracks(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "a.txt").write_text("Hello, world. " * 200)
    cli("data", "load", "--source", str(tmp_path / "a.txt"), "--track", "tensorboard")
    assert list((tmp_path / "workspace" / "tensorboard").glob("*/events.out.tfevents.*"))
    refused = cli("data", "load", "--source", str(tmp_path / "a.txt"), "--track", "comet", check=False)
    assert refused.returncode == 2
    assert "comet" in refused.stderr

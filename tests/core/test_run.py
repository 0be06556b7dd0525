"""Execution: stop, resume, failure, waiting, and what a run records."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from typing import Any, ClassVar

import pytest

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput, BadUsage, Interrupted, RunFailed, Unavailable
from mojiang.core.events import Event, read_curves
from mojiang.core.recipe import DatasetRef, Recipe
from mojiang.core.run import Circumstance, Run, execute, resolve_device
from mojiang.core.store import Store

CALLS: list[str] = []


class Steps(Recipe):
    """Counts to `steps` in its scratch, so that it can be continued."""

    recipe: ClassVar[str] = "data.steps"
    makes: ClassVar[Kind] = "dataset"
    steps: int = 3
    fail: str = ""
    input: DatasetRef | None = None

    def run(self, run: Run) -> dict[str, float | int | str]:
        CALLS.append(run.id)
        counter = run.scratch / "counter"
        step = int(counter.read_text()) if counter.exists() else 0
        while step < self.steps:
            step += 1
            counter.write_text(str(step))
            run.metrics(step, loss=1 / step)
            if self.fail == "stop" and step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            run.check_stop()
            if self.fail == "disk":
                raise OSError(errno.ENOSPC, "No space left on device", "x")
            if self.fail == "crash":
                raise ZeroDivisionError("by hand")
            if self.fail == "input":
                raise BadInput("nothing usable", hint="bring more")
        (run.out / "steps").write_text(str(step))
        return {"steps": step}


class Random(Recipe):
    """Depends on the seed."""

    recipe: ClassVar[str] = "data.random"
    makes: ClassVar[Kind] = "dataset"
    stochastic: ClassVar[bool] = True

    def run(self, run: Run) -> dict[str, float | int | str]:
        (run.out / "seed").write_text(str(run.seed))
        return {}


def test_ctrl_c_keeps_the_work_and_the_same_recipe_continues(store: Store) -> None:
    recipe = Steps(steps=4, fail="stop")
    with pytest.raises(Interrupted):
        execute(recipe, store)
    assert store.runs()[0]["status"] == "interrupted"
    outcome = execute(recipe, store)  # goes on after step 2, so it is not stopped again
    assert outcome.artifact.metrics == {"steps": 4}
    assert [run["status"] for run in store.runs()] == ["done"]
    assert read_curves(store.events_path(outcome.run))["loss"] == ([1, 2, 3, 4], [1.0, 0.5, pytest.approx(1 / 3), 0.25])


@pytest.mark.parametrize(
    ("fail", "error", "said"),
    [
        ("disk", Unavailable, "the disk is full while running data.steps"),
        ("crash", RunFailed, "ZeroDivisionError: by hand"),
        ("input", BadInput, "nothing usable"),
    ],
)
def test_a_failure_is_said_and_leaves_nothing(store: Store, fail: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        execute(Steps(fail=fail), store)
    assert caught.value.hint  # type: ignore[attr-defined]
    assert store.runs()[0]["status"] == "failed"
    assert store.artifacts() == []
    assert not any((store.workspace / "tmp").iterdir())


def test_a_figure_that_is_no_number_is_refused_and_harms_nothing(store: Store) -> None:
    class Broken(Steps):
        """Measures NaN."""

        def run(self, run: Run) -> dict[str, float | int | str]:
            return {**super().run(run), "loss": float("nan")}

    with pytest.raises(RunFailed, match="finite"):
        execute(Broken(), store)
    assert store.artifacts() == []
    assert store.runs()[0]["status"] == "failed"


def test_the_seed_is_identity_only_where_it_matters(store: Store) -> None:
    assert not execute(Random(), store, seed=0).reused
    assert not execute(Random(), store, seed=1).reused
    assert execute(Random(), store, seed=1).reused
    assert not execute(Steps(), store, seed=0).reused
    assert execute(Steps(), store, seed=1).reused


def test_two_at_once_do_it_once(store: Store) -> None:
    CALLS.clear()
    said: list[Event] = []
    results: list[Any] = []

    class Slow(Steps):
        """Takes a moment."""

        def run(self, run: Run) -> dict[str, float | int | str]:
            time.sleep(0.5)
            return super().run(run)

    def work() -> None:
        results.append(execute(Slow(), store, circumstance=Circumstance(listeners=(said.append,))))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(CALLS) == 1
    assert sorted(result.reused for result in results) == [False, True, True]
    assert any("waiting" in event.data.get("text", "") for event in said)


def test_an_input_of_the_wrong_kind_or_number(store: Store) -> None:
    artifact = execute(Steps(), store).artifact
    run = Run("r", Steps(), store, {"input": [artifact, artifact]}, 0, Circumstance(), "f" * 64)
    with pytest.raises(BadUsage, match="2 inputs"):
        run.input("input")
    run.events.close()


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(BadUsage, match="'tpu'"):
        resolve_device("tpu")

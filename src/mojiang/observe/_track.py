"""From the events of a run to a run of an experiment tracker."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from mojiang.core.config import closest
from mojiang.core.errors import BadUsage, Unavailable
from mojiang.core.events import Event, EventLog, Listener, read_curves
from mojiang.core.store import Store

TRACKERS: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "tensorboard": ("mojiang.observe.tensorboard:TensorBoard", ("tensorboard",), "pip install tensorboard"),
    "wandb": ("mojiang.observe.wandb:WandB", ("wandb",), "pip install wandb"),
    "mlflow": ("mojiang.observe.mlflow:MLflow", ("mlflow",), "pip install mlflow-skinny alembic"),
}
"""Name → (target, packages it needs, the command that brings them)."""


@dataclass(frozen=True)
class Facts:
    """What a tracker is told about a run."""

    run: str
    name: str
    recipe: str
    seed: int
    config: dict[str, Any]

    def flat(self) -> dict[str, str | int | float | bool]:
        """Config and seed under dotted names; what is neither number nor word is written out."""
        return {**flattened(self.config), "recipe": self.recipe, "seed": self.seed}


class Sink(Protocol):
    """One run of a tracker."""

    last: int
    """The highest step it holds already; -1 when every point is to be given to it."""

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """A point on the curves."""
        ...

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """`done`, `interrupted` or `failed`; the final metrics, the artifact's REF, the seconds, or the error."""
        ...


class Tracker:
    """A listener that keeps a tracker's run beside every run that says anything worth plotting.

    Args:
        say: hears the one warning when the tracker fails (the warning is in the run's log as well).

    Raises:
        BadUsage: no such tracker.
        Unavailable: its package is missing.
    """

    def __init__(self, name: str, store: Store, say: Listener | None = None) -> None:
        if name not in TRACKERS:
            raise BadUsage(f"--track {name!r} is not known", hint=closest(name, TRACKERS))
        self.name, self.store, self.say = name, store, say
        target, packages, command = TRACKERS[name]
        if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            packages = (*packages, "alembic")  # makes the tables of a database of our own
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise Unavailable(f"--track {name} needs the package {package!r}, which is not installed", hint=command)
        self._target, self._sinks, self._failed = target, dict[str, Sink](), False

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        if self._failed:
            return
        try:
            self._take(event)
        except Exception as error:
            self._failed = True
            self._warn(event.run, f"--track {self.name} failed and goes on no further: {type(error).__name__}: {error}")

    def _take(self, event: Event) -> None:
        if event.kind == "metrics":
            step = int(event.data["step"])
            values = {name: float(value) for name, value in event.data.items() if is_figure(value) and name != "step"}
            sink = self._sink(event.run, step)
            if step > sink.last:
                sink.point(step, values)
        elif event.kind == "status" and event.data["status"] != "running":
            summary = {name: value for name, value in event.data.items() if name != "status"}
            if event.run in self._sinks or summary.get("metrics"):
                self._sink(event.run, 2**62).end(str(event.data["status"]), summary)
                del self._sinks[event.run]

    def _sink(self, run: str, step: int) -> Sink:
        """The tracker's run; a new one begins with what earlier attempts of the run said about the steps before."""
        if run not in self._sinks:
            row = self.store.get_run(run)
            facts = Facts(run, row["name"], row["recipe"], row["seed"], row["config"])
            module, _, word = self._target.partition(":")
            sink: Sink = getattr(importlib.import_module(module), word)(self.store.workspace, facts)
            for earlier, values in points(self.store.events_path(run)).items():
                if sink.last < earlier < step:
                    sink.point(earlier, values)
            self._sinks[run] = sink
        return self._sinks[run]

    def _warn(self, run: str, text: str) -> None:
        log = EventLog(self.store.events_path(run), run, (self.say,) if self.say else ())
        log.emit("log", level="warning", text=text)
        log.close()


def is_figure(value: Any) -> bool:
    """Whether a value is a number that can be drawn.

    >>> [is_figure(value) for value in (1, 0.5, True, "bf16", float("nan"))]
    [True, True, False, False, False]
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def points(path: Path) -> dict[int, dict[str, float]]:
    """Step → figures of an event log, in order; what a resumed run said again counts."""
    found: dict[int, dict[str, float]] = {}
    for name, (steps, values) in read_curves(path).items():
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                found.setdefault(step, {})[name] = value
    return dict(sorted(found.items()))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings under dotted names.

    >>> flattened({"optim": {"clip": 1.0}, "depths": [1, 2], "model": None})
    {'optim.clip': 1.0, 'depths': '[1, 2]', 'model': 'None'}
    """
    flat: dict[str, str | int | float | bool] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str | int | float) else str(value)
    return flat

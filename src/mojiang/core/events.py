"""What a run says while it works: metrics, progress, logs.

Emitting is here, low in the layers; showing (terminal, studio, Prometheus) is above. An event log is a JSON-lines
file that survives a kill: a torn last line is skipped by readers and closed by the next writer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["log", "metrics", "progress", "status"]


@dataclass(frozen=True)
class Event:
    """One thing that happened. `time` is seconds since the epoch; `run` is the run's id."""

    kind: Kind
    run: str
    data: dict[str, Any]
    time: float = field(default_factory=time.time)


Listener = Callable[[Event], None]


class EventLog:
    """Appends events to a file and hands them to listeners."""

    # A progress bar moves many times a second; the file needs enough of it to follow from another terminal.
    PROGRESS_SECONDS = 2.0

    def __init__(self, path: Path, run: str, listeners: tuple[Listener, ...] = ()) -> None:
        self.run = run
        self._listeners = listeners
        self._last_progress = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and _ends_torn(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the run
        if torn:
            self._file.write("\n")

    def emit(self, kind: Kind, **data: Any) -> None:
        """Record an event and show it to the listeners."""
        event = Event(kind, self.run, data)
        for listener in self._listeners:
            listener(event)
        if kind == "progress":
            if event.time - self._last_progress < self.PROGRESS_SECONDS:
                return
            self._last_progress = event.time
        line = json.dumps({"time": round(event.time, 3), "kind": kind, **data}, ensure_ascii=False, default=str)
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; listeners stay."""
        self._file.close()


def _ends_torn(path: Path) -> bool:
    """Whether the last line lacks its end, as a kill in the middle of a write leaves it."""
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def read_events(path: Path, run: str = "") -> Iterator[Event]:
    """Events of a log file in order. Lines torn by a kill are skipped."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                data = json.loads(line)
                yield Event(data.pop("kind"), run, data, data.pop("time"))
            except (ValueError, KeyError, AttributeError):
                continue


def read_curves(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The metric curves of a run: name → (steps, values).

    A resumed run repeats the steps since its last checkpoint; the last value of a step counts.
    """
    points: dict[str, dict[int, float]] = {}
    for event in read_events(path):
        if event.kind == "metrics":
            step = int(event.data["step"])
            for name, value in event.data.items():
                if name != "step" and isinstance(value, int | float):
                    points.setdefault(name, {})[step] = float(value)
    return {name: (sorted(curve), [curve[step] for step in sorted(curve)]) for name, curve in points.items()}

"""An event log survives a kill."""

from __future__ import annotations

from pathlib import Path

from mojiang.core.events import Event, EventLog, read_curves, read_events


def test_round_trip_and_listeners(tmp_path: Path) -> None:
    heard: list[Event] = []
    log = EventLog(tmp_path / "e.jsonl", "r1", (heard.append,))
    log.emit("log", level="info", text="你好")
    log.emit("metrics", step=1, loss=2.5)
    log.close()
    read = list(read_events(tmp_path / "e.jsonl", "r1"))
    assert [(e.kind, e.data) for e in read] == [(e.kind, e.data) for e in heard]
    assert read[0].data["text"] == "你好"


def test_a_torn_line_is_skipped_and_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    log = EventLog(path, "r")
    log.emit("metrics", step=1, loss=3.0)
    log.emit("metrics", step=2, loss=2.0)
    log.close()
    path.write_bytes(path.read_bytes()[:-9])  # as a kill in the middle of a write leaves it
    log = EventLog(path, "r")
    log.emit("metrics", step=2, loss=1.5)
    log.close()
    assert read_curves(path) == {"loss": ([1, 2], [3.0, 1.5])}


def test_steps_done_twice_count_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e", "r")
    for step, loss in ((1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)):
        log.emit("metrics", step=step, loss=loss)
    log.close()
    assert read_curves(tmp_path / "e") == {"loss": ([1, 2, 3], [3.0, 2.5, 1.0])}


def test_progress_reaches_listeners_at_once_and_the_file_seldom(tmp_path: Path) -> None:
    heard: list[Event] = []
    log = EventLog(tmp_path / "e", "r", (heard.append,))
    for done in range(1000):
        log.emit("progress", done=done, total=1000)
    log.close()
    assert len(heard) == 1000
    assert len(list(read_events(tmp_path / "e"))) <= 3


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none")) == []

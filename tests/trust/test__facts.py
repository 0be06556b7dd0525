"""Curves are read from a log as a killed and resumed run leaves it."""

import json
from pathlib import Path
from typing import Any

from mojiang.trust._facts import read_curves


def test_a_resumed_run_overwrites_and_a_torn_line_is_skipped(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    log = tmp_path / "events.jsonl"
    points = [(0, 5.0), (1, 4.0), (2, 3.0), (1, 4.5), (2, 3.5)]
    lines = [json.dumps({"time": 0, "kind": "metrics", "step": s, "loss": v, "note": "x"}) for s, v in points]
    lines += [json.dumps({"time": 0, "kind": "progress", "done": 1}), '{"kind": "metrics", "st']
    log.write_text("\n".join(lines))
    monkeypatch.setattr(world.store, "events_path", lambda run: log)
    assert read_curves(world.store, world.model) == {"loss": ([0.0, 1.0, 2.0], [5.0, 4.5, 3.5])}
    log.unlink()
    assert read_curves(world.store, world.model) == {}


def test_the_curve_of_a_real_run(world: Any) -> None:
    steps, values = read_curves(world.store, world.model)["loss"]
    assert steps == [float(i) for i in range(40)]
    assert values[-1] < values[0]

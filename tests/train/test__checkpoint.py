from __future__ import annotations

from pathlib import Path

import torch

from mojiang.train._checkpoint import KEEP, load_checkpoint, save_checkpoint


def test_the_newest_intact_checkpoint_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.full((3,), float(step))})
    assert len(list(tmp_path.glob("*.pt"))) == KEEP
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 4
    assert state["w"].tolist() == [4, 4, 4]


def test_a_torn_or_unsealed_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step})
    newest = tmp_path / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    (tmp_path / "step-00000003.pt").write_bytes(b"killed before the seal")
    (tmp_path / "step-00000004.json").write_text("{")
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_nothing_to_load_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None

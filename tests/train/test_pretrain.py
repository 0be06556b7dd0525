from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.model.load import load_model
from mojiang.train.pretrain import Pretrain

TINY = {
    "width": 64,
    "depth": 2,
    "context": 128,
    "batch_tokens": 512,
    "precision": "fp32",
    "embedding_learning_rate": 0.01,
}


def test_training_lowers_bits_per_byte_and_makes_a_model_folder(workspace: Store) -> None:
    losses = []
    for steps in (1, 40):
        recipe = Pretrain(data="split", tokenizer="bpe", steps=steps, **TINY)  # type: ignore[arg-type]
        losses.append(execute(recipe, workspace, name=f"m{steps}").artifact)
    assert losses[1].metrics["validation_bits_per_byte"] < losses[0].metrics["validation_bits_per_byte"] - 0.3  # type: ignore[operator]
    model = load_model(losses[1].path)
    assert model.config.max_position_embeddings == 128
    assert (losses[1].path / "tokenizer.json").read_bytes() == (
        workspace.get("bpe").path / "tokenizer.json"
    ).read_bytes()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(workspace: Store) -> None:
    recipe = Pretrain(data="split", tokenizer="bpe", steps=3, validations=0, **TINY)  # type: ignore[arg-type]
    first = load_model(execute(recipe, workspace, seed=1).artifact.path).state_dict()
    other = load_model(execute(recipe, workspace, seed=2).artifact.path).state_dict()
    micro = recipe.model_copy(update={"micro_tokens": 128})
    micro_state = load_model(execute(micro, workspace, seed=1).artifact.path).state_dict()
    assert all(torch.allclose(first[n], micro_state[n], atol=2e-3) for n in first)
    assert any(not torch.allclose(first[n], other[n], atol=1e-2) for n in first)


@pytest.mark.slow
def test_minutes_are_kept_and_the_plan_is_on_disk_before_the_first_step(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mojiang.train import _loop

    seen: list[dict[str, object]] = []
    advance = _loop.fit

    def spy(training: _loop.Training, *rest: object) -> object:
        seen.append(json.loads((training.run.scratch / "plan.json").read_text()))
        return advance(training, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_loop, "fit", spy)
    recipe = Pretrain(data="split", tokenizer="bpe", minutes=0.4, context=128, batch_tokens=1024, compile="off")
    started = time.monotonic()
    artifact = execute(recipe, workspace).artifact
    assert time.monotonic() - started < 0.4 * 60 * 1.3  # 1.05 on a quiet machine; tests share theirs
    assert seen[0]["settings"]["num_steps"] == artifact.metrics["steps"]  # type: ignore[index]


def test_a_corpus_too_small_says_how_small_and_what_is_needed(tmp_path: Path, workspace: Store) -> None:
    folder = tmp_path / "little"
    folder.mkdir()
    for n in range(8):
        (folder / f"{n}.txt").write_text(f"Only a few words, number {n}. " * 100)
    execute(Load(source=str(folder)), workspace, name="little")
    execute(Split(data="little"), workspace, name="few")
    with pytest.raises(BadInput, match=r"bytes to train on; at least 50,000 are needed"):
        execute(Pretrain(data="few", tokenizer="bpe", steps=1, **TINY), workspace)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{}, {"minutes": 1, "steps": 1}, {"steps": 1, "context": 1000}, {"steps": 1, "micro_tokens": 64}]
)
def test_settings_that_contradict_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Pretrain(data="a", tokenizer="b", **settings)  # type: ignore[arg-type]


def test_fields_stay_few() -> None:
    assert len(Pretrain.model_fields) <= 25

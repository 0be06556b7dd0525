from __future__ import annotations

import json
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
from mojiang.tokenizer.unigram import Unigram
from mojiang.tokenizer.wordpiece import WordPiece
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
    micro = Pretrain(data="split", tokenizer="bpe", steps=3, validations=0, micro=128, **TINY)  # type: ignore[arg-type]
    micro_state = load_model(execute(micro, workspace, seed=1).artifact.path).state_dict()
    assert all(torch.allclose(first[n], micro_state[n], atol=2e-3) for n in first)
    assert any(not torch.allclose(first[n], other[n], atol=1e-2) for n in first)


def test_a_large_seed_will_do(workspace: Store) -> None:
    recipe = Pretrain(data="split", tokenizer="bpe", steps=1, validations=0, **TINY)  # type: ignore[arg-type]
    assert execute(recipe, workspace, seed=2**40).artifact.metrics["steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", "masked_sop"])
def test_minutes_are_planned_and_the_plan_is_on_disk_before_the_first_step(
    objective: str, workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mojiang.train import _session

    seen: list[dict[str, object]] = []
    advance = _session.fit

    def spy(training: _session.Training, *rest: object) -> object:
        seen.append(json.loads((training.run.scratch / "settings.json").read_text()))
        return advance(training, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_session, "fit", spy)
    execute(WordPiece(data="split", vocab_size=600), workspace, name="words")
    settings = {"minutes": 0.4, "context": 128, "batch_tokens": 1024, "compile": "off", "objective": objective}
    recipe = Pretrain(data="split", tokenizer="bpe" if objective == "causal" else "words", **settings)  # type: ignore[arg-type]
    artifact = execute(recipe, workspace).artifact
    # What was planned from the steps that were timed, for how long it then takes is the machine's affair.
    assert artifact.metrics["planned_seconds"] <= 0.4 * 60  # type: ignore[operator]
    assert seen[0]["num_steps"] == artifact.metrics["steps"]


def test_a_corpus_too_small_says_how_small_and_what_is_needed(tmp_path: Path, workspace: Store) -> None:
    folder = tmp_path / "little"
    folder.mkdir()
    for n in range(8):
        (folder / f"{n}.txt").write_text(f"Only a few words, number {n}. " * 100)
    execute(Load(source=str(folder)), workspace, name="little")
    execute(Split(data="little"), workspace, name="few")
    with pytest.raises(BadInput, match=r"bytes to train on; at least 50,000 are needed"):
        execute(Pretrain(data="few", tokenizer="bpe", steps=1, **TINY), workspace)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_other_decoders_are_trained_and_continued(family: str, workspace: Store) -> None:
    settings = {**TINY, "steps": 2, "validations": 1}
    first = execute(Pretrain(data="split", tokenizer="bpe", family=family, **settings), workspace, name="a").artifact  # type: ignore[arg-type]
    assert load_model(first.path).config.to_hf()["model_type"] == family
    again = execute(Pretrain(data="split", model="a", **_without_shape(settings)), workspace).artifact  # type: ignore[arg-type]
    assert again.metrics["parameters"] == first.metrics["parameters"]
    assert again.metrics["validation_bits_per_byte"] < first.metrics["validation_bits_per_byte"]  # type: ignore[operator]


def _without_shape(settings: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in ("width", "depth")}


def test_masked_words_are_learnt_and_a_second_task_is_added(workspace: Store) -> None:
    execute(WordPiece(data="split", vocab_size=600), workspace, name="words")
    made = []
    for steps in (1, 25):
        recipe = Pretrain(data="split", tokenizer="words", objective="masked", whole_words=True, steps=steps, **TINY)  # type: ignore[arg-type]
        made.append(execute(recipe, workspace, name=f"bert{steps}").artifact)
    assert made[1].metrics["validation_loss"] < made[0].metrics["validation_loss"] - 0.3  # type: ignore[operator]
    assert 0 <= made[1].metrics["validation_masked_accuracy"] <= 1  # type: ignore[operator]
    assert load_model(made[1].path).config.architecture == "BertForMaskedLM"
    settings = {**_without_shape(TINY), "steps": 5, "objective": "masked_nsp"}
    pairs = execute(Pretrain(data="split", model="bert25", **settings), workspace, name="pairs").artifact  # type: ignore[arg-type]
    assert load_model(pairs.path).config.architecture == "BertForPreTraining"
    assert pairs.metrics["validation_loss"] < made[0].metrics["validation_loss"]  # type: ignore[operator]
    assert 0 <= pairs.metrics["validation_pair_accuracy"] <= 1  # type: ignore[operator]


def test_electra_is_saved_as_the_discriminator_beside_its_generator(workspace: Store) -> None:
    execute(WordPiece(data="split", vocab_size=600), workspace, name="words")
    recipe = Pretrain(data="split", tokenizer="words", objective="replaced_token", steps=2, **TINY)  # type: ignore[arg-type]
    artifact = execute(recipe, workspace, name="electra").artifact
    model, generator = load_model(artifact.path), load_model(artifact.path / "generator")
    assert (model.config.architecture, generator.config.architecture) == ("ElectraForPreTraining", "ElectraForMaskedLM")
    names = [f"electra.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    assert all(torch.equal(model.state_dict()[name], generator.state_dict()[name]) for name in names)
    assert {"validation_replaced_f1", "validation_replaced_accuracy"} <= set(artifact.metrics)
    settings = {**_without_shape(TINY), "steps": 1, "objective": "replaced_token"}
    again = execute(Pretrain(data="split", model="electra", **settings), workspace).artifact  # type: ignore[arg-type]
    assert again.metrics["parameters"] == artifact.metrics["parameters"]


@pytest.mark.parametrize(("objective", "family"), [("span_corruption", "t5"), ("denoising", "bart")])
def test_encoder_decoders_learn_to_restore_text(objective: str, family: str, workspace: Store) -> None:
    pytest.importorskip("sentencepiece")
    execute(Unigram(data="split", vocab_size=600, sentinels=20), workspace, name="pieces")
    losses = []
    for steps in (1, 15):
        recipe = Pretrain(data="split", tokenizer="pieces", objective=objective, steps=steps, **TINY)  # type: ignore[arg-type]
        artifact = execute(recipe, workspace).artifact
        losses.append(artifact.metrics["validation_loss"])
    assert losses[1] < losses[0] - 0.3  # type: ignore[operator]
    assert family == load_model(artifact.path).config.MODEL_TYPE


def test_what_a_tokenizer_or_a_model_cannot_do_is_refused_before_training(workspace: Store) -> None:
    settings = {**TINY, "steps": 1}
    with pytest.raises(BadInput, match="a mask token, and this tokenizer has none") as caught:
        execute(Pretrain(data="split", tokenizer="bpe", objective="masked", **settings), workspace)  # type: ignore[arg-type]
    assert "tokenizer.wordpiece" in caught.value.hint
    execute(Pretrain(data="split", tokenizer="bpe", **settings), workspace, name="decoder")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="masked trains .*, not qwen3") as caught:
        execute(Pretrain(data="split", model="decoder", objective="masked", **_without_shape(settings)), workspace)  # type: ignore[arg-type]
    assert caught.value.hint == "for qwen3 take objective=causal"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"objective": "masked", "family": "t5"}, "for t5 take objective=span_corruption or denoising"),
        ({"mask_rate": 0.2}, "causal hides none"),
        ({"objective": "denoising", "whole_words": True}, "denoising does not"),
        ({"tokenizer": None, "model": "a", "family": "bert", "objective": "masked"}, "leave it out"),
    ],
)
def test_objectives_and_families_that_do_not_fit_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Pretrain(**{"data": "a", "tokenizer": "b", "steps": 1, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"minutes": 1, "steps": 1}, {"steps": 1, "context": 1000}, {"steps": 1, "model": "c"}]
)
def test_settings_that_contradict_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Pretrain(data="a", tokenizer="b", **settings)  # type: ignore[arg-type]


def test_fields_stay_few() -> None:
    assert len(Pretrain.model_fields) <= 25

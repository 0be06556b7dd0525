from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.examples import Examples
from mojiang.model.load import load_causal_lm
from mojiang.model.lora import LoraConfig, adapted, add_adapter
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import load_tokenizer
from mojiang.train._batches import padded
from mojiang.train._preferences import answer_logprobs, encode_answer, encode_pairs, of_reference
from mojiang.train.dpo import DPO
from mojiang.train.pretrain import Pretrain
from mojiang.train.reward import Reward

FIXTURE = str(Path(__file__).parents[1] / "fixtures" / "preferences")


@pytest.fixture
def base(workspace: Store) -> Store:
    """The workspace with a barely trained model and preferences in it."""
    recipe = Pretrain(
        data="split", tokenizer="bpe", steps=10, width=64, depth=2, context=256, batch_tokens=1024, precision="fp32"
    )
    execute(recipe, workspace, name="base")
    execute(Examples(source=FIXTURE, form="preferences", validation=0.2), workspace, name="preferences")
    return workspace


@pytest.mark.parametrize("loss", ["dpo", "ipo", "orpo", "kto"])
def test_the_margin_on_held_out_pairs_grows(base: Store, loss: str) -> None:
    recipe = DPO(
        model="base", data="preferences", loss=loss, steps=25, batch_size=8, learning_rate=1e-3, precision="fp32",
        compile="off", warmup_steps=2,
    )  # fmt: skip
    metrics = execute(recipe, base, name="aligned").artifact.metrics
    assert metrics["validation_margin"] > metrics["validation_margin_before"] + 0.05  # type: ignore[operator]
    assert metrics["validation_loss"] < metrics["validation_loss_before"]  # type: ignore[operator]
    if loss != "kto":
        assert metrics["validation_accuracy"] >= 0.9  # type: ignore[operator]


def test_an_adapter_can_be_trained_in_the_place_of_all_weights(base: Store) -> None:
    recipe = DPO(
        model="base", data="preferences", steps=15, batch_size=8, learning_rate=0.01, rank=4, precision="fp32",
        compile="off", warmup_steps=2,
    )  # fmt: skip
    metrics = execute(recipe, base, name="aligned").artifact.metrics
    assert metrics["validation_margin"] > 0.05  # type: ignore[operator]
    assert abs(metrics["validation_margin_before"]) < 1e-5  # type: ignore[arg-type]  # it begins as its own reference
    assert metrics["merge_difference"] < 1e-4  # type: ignore[operator]


def test_validations_look_at_no_more_examples_than_asked(base: Store) -> None:
    recipe = DPO(model="base", data="preferences", steps=1, rank=4, validation_examples=3, precision="fp32",
                 compile="off")  # fmt: skip
    made = execute(recipe, base, name="aligned")
    lines = base.events_path(made.run).read_text().splitlines()
    asked = [event["total"] for line in lines if (event := json.loads(line)).get("step") == "reference"]
    assert asked
    assert set(asked) == {3}  # of the fixture's fifth that is held out


def test_a_reward_model_tells_the_better_answer(base: Store) -> None:
    recipe = Reward(
        model="base", data="preferences", steps=25, batch_size=8, learning_rate=1e-3, precision="fp32", warmup_steps=2
    )
    artifact = execute(recipe, base, name="judge").artifact
    assert artifact.metrics["validation_accuracy"] >= 0.9  # type: ignore[operator]
    assert '"Qwen3ForSequenceClassification"' in (artifact.path / "config.json").read_text()


def test_the_answer_with_its_stop_token_is_judged_and_nothing_else(base: Store) -> None:
    tokenizer = load_tokenizer(base.get("base").path)
    prompt = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    tokens, targets = encode_answer([*prompt, {"role": "user", "content": "What is 2 plus 2?"}], "Four.", tokenizer)
    judged = [int(target) for target in targets if target != IGNORE]
    assert tokenizer.decode(judged, skip_special=False) == "Four.<|im_end|>"
    assert len(tokens) == len(targets)


def test_an_answers_log_probability_is_the_sum_over_its_tokens(base: Store) -> None:
    from mojiang.model.load import load_model

    model = load_model(base.get("base").path)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 500, n) for n in (9, 14)]
    targets = [np.where(np.arange(len(row) - 1) < 4, IGNORE, row[1:]) for row in rows]
    sums_B, counts_B = answer_logprobs(model, [row[:-1] for row in rows], targets)
    for number, row in enumerate(rows):
        scores = model.logits(model(torch.from_numpy(row[:-1])[None])).log_softmax(-1)[0]
        expected = sum(scores[at, row[at + 1]] for at in range(4, len(row) - 1))
        assert sums_B[number].item() == pytest.approx(expected.item(), rel=1e-5)  # type: ignore[union-attr]
        assert int(counts_B[number]) == len(row) - 5
    assert padded([np.arange(3)], 0)[0].shape == (1, 16)


def test_pairs_that_are_all_too_long_are_refused(base: Store) -> None:
    with pytest.raises(BadInput, match="no pair of answers") as caught:
        execute(DPO(model="base", data="preferences", steps=1, context=32), base)
    assert "longer than 32 tokens" in caught.value.hint


def test_another_form_of_data_is_refused_by_name(base: Store) -> None:
    with pytest.raises(BadInput, match="preferences"):
        execute(DPO(model="base", data="pairs", steps=1), base)


def test_the_reference_of_an_adapter_is_the_model_without_it(base: Store) -> None:
    tokenizer = load_tokenizer(base.get("base").path)
    model = load_causal_lm(base.get("base").path)
    rows = [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Hello.", "rejected": "What?"}]
    examples, _ = encode_pairs(rows, tokenizer, 128)
    untrained, _ = answer_logprobs(model, examples["chosen"], examples["chosen_targets"])
    add_adapter(model, LoraConfig(rank=4))
    for layer in adapted(model).values():
        torch.nn.init.normal_(layer.adapters["default"].lora_B.weight)  # type: ignore[union-attr, arg-type]
    changed, _ = answer_logprobs(model, examples["chosen"], examples["chosen_targets"])
    assert (changed - untrained).abs().item() > 0.01
    torch.testing.assert_close(of_reference(model, examples, "chosen"), untrained.detach())
    kept = examples.replace(chosen_reference=np.array([-3.5], np.float32))
    assert of_reference(model, kept, "chosen").item() == -3.5

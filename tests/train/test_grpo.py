from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.model.decoder import Decoder
from mojiang.train import _losses
from mojiang.train._batches import Drawn, Examples
from mojiang.train._loop import Training, fit
from mojiang.train._parallel import World
from mojiang.train._rewards import REWARDS
from mojiang.train._rollouts import GroupRelative, Prompt, encode_prompts

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run

END = 63


class Numbers:
    """The part of a tokenizer that the engine uses: a token is its number and a space."""

    stop_ids = frozenset({END})
    special_ids = frozenset({END})
    token_bytes = [f"{id} ".encode() for id in range(63)] + [b""]
    vocab_size = 64
    eos_id = END

    def token_id(self, token: str) -> int:
        raise BadInput(f"no {token}")

    def decode(self, ids: Any, skip_special: bool = True) -> str:
        return "".join(f"{id} " for id in ids if id != END)


def sevens(answer: str, right: str) -> float:
    """Share of the answer's words that are the right one."""
    words = answer.split()
    return sum(word == right for word in words) / max(1, len(words))


def objective(beta: float = 0.01) -> GroupRelative:
    prompts = [Prompt((n, n + 1), "7") for n in range(6)]
    return GroupRelative(Numbers(), sevens, 0, group=8, max_tokens=6, beta=beta, validation=prompts)  # type: ignore[arg-type]


def asked(rows: list[int], step: int) -> Examples:
    return Examples({"prompt": [Prompt((row, row + 2), "7") for row in rows], "row": np.array(rows)})


def trained(folder: Path, steps: int, beta: float) -> tuple[Training, dict[str, float], dict[str, float]]:
    optim = tiny_run.OPTIM.model_copy(
        update={"optimizer": "adamw", "learning_rate": 0.02, "embedding_learning_rate": 0.02, "schedule": "constant"}
    )
    settings = replace(tiny_run.SETTINGS, num_steps=steps, batch_rows=4, micro=4096, optim=optim)
    goal = objective(beta)
    model = Decoder(tiny_run.CONFIG).init_weights(1)
    goal.start(model)
    training = Training(model, goal, settings, tiny_run.SilentRun(folder))  # type: ignore[arg-type]
    training.resume()
    before = goal.validate(model, 4096)
    try:
        result = fit(training, Drawn(40, 4, 0, asked))
    finally:
        goal.close()
    return training, before, result.validation | goal.diagnostics()


def test_reward_rises_from_chance_and_the_divergence_is_shown(tmp_path: Path) -> None:
    _, before, after = trained(tmp_path, 40, beta=0.001)
    assert before["validation_reward"] < 0.2
    assert after["validation_reward"] > 0.9
    assert after["reward"] > 0.5
    assert after["kl"] > 0.1


def test_a_strong_hold_keeps_the_model_near_the_reference(tmp_path: Path) -> None:
    _, _, loose = trained(tmp_path / "loose", 15, beta=0.001)
    _, _, held = trained(tmp_path / "held", 15, beta=3.0)
    assert held["kl"] < 0.3 * loose["kl"]


def test_continuing_writes_the_same_answers_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, _, _ = trained(tmp_path / "whole", 8, beta=0.01)
    trained(tmp_path / "halves", 4, beta=0.01)
    continued, _, _ = trained(tmp_path / "halves", 8, beta=0.01)
    assert continued.step == 8
    for expected, found in zip(whole.model.parameters(), continued.model.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_advantages_compare_answers_of_one_prompt(tmp_path: Path) -> None:
    goal = objective(beta=0.0)
    model = Decoder(tiny_run.CONFIG).init_weights(1)
    try:
        rows = goal.prepare(model, asked([0, 1, 2], 0), 0, World())
    finally:
        goal.close()
    groups = rows["advantage"].reshape(3, 8)
    assert np.allclose(groups.sum(axis=1), 0, atol=1e-4)
    for group in groups:
        assert group.std() == pytest.approx(1, abs=0.01) or not group.any()
    counts = goal.counts(rows)["loss"]
    assert counts == sum(len(tokens) - 2 for tokens in rows["tokens"])


def test_the_probabilities_are_those_that_were_drawn_from(tmp_path: Path) -> None:
    """At a temperature of 0.5 the log-probability of a token is that of the doubled logits."""
    goal = replace(objective(beta=0.0), temperature=0.5)
    model = Decoder(tiny_run.CONFIG).init_weights(1)
    batch = Examples({
        "tokens": [np.array([3, 4, 5, 6])], "start": np.array([2]), "advantage": np.ones(1, np.float32)
    }, "tokens")  # fmt: skip
    found_N, rows_N = goal._logprobs(model, batch)
    logits = model.logits(model(torch.tensor([[3, 4, 5]])))[0]
    expected = (logits * 2).log_softmax(-1)
    assert torch.allclose(found_N, torch.stack([expected[1, 5], expected[2, 6]]), atol=1e-6)
    assert rows_N.tolist() == [0, 0]
    on_policy, _ = _losses.grpo_clip(found_N, found_N.detach(), torch.ones(2), 0.2, 0.2, None, 0.0)
    assert float(on_policy.detach()) == pytest.approx(-2)


@pytest.mark.parametrize(
    ("name", "answer", "right", "reward"),
    [
        ("number", "1,234 in all", "1234", 1.0),
        ("number", "-3.0", "-3", 1.0),
        ("json", '{"a": true}', '{"a": 1}', 0.1),
        ("json", "[1]", "[1]", 1.0),
        ("json", '{"a": 1, "b": 2}', '{"a": 1}', 0.55),
        ("exact", "北京 ", "北京", 1.0),
        ("regex", "2026-11-23", r"\d{4}-\d\d-\d\d", 1.0),
    ],
)
def test_rewards_are_what_they_say(name: str, answer: str, right: str, reward: float) -> None:
    assert REWARDS[name](answer, right) == pytest.approx(reward)


def test_prompts_without_room_for_an_answer_are_counted() -> None:
    class Chat:
        def render_chat(self, messages: Any, add_generation_prompt: bool) -> list[int]:
            return list(range(len(messages[0]["content"])))

    rows = [{"prompt": [{"role": "user", "content": "x" * n}], "answer": "y"} for n in (3, 30)]
    prompts, too_long = encode_prompts(rows, Chat(), 10)  # type: ignore[arg-type]
    assert ([len(p.tokens) for p in prompts], too_long) == ([3], 1)
    with pytest.raises(BadInput, match="no prompt"):
        encode_prompts(rows, Chat(), 2)  # type: ignore[arg-type]

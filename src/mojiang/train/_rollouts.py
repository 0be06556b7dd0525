"""GRPO's two halves: write answers with the model as it is, then learn from how they were rewarded.

Answers are written by the same engine, with the same weights and the same code that the gradient goes through, so the
probabilities they were drawn with are those that are trained on; the temperature is part of both.

Tensor names: B answers · T positions · N trained tokens · D hidden size
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.generate.engine import Engine, GenerationRequest, Sampling
from mojiang.model.lora import adapted, adapter_off
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import Tokenizer
from mojiang.train import _losses
from mojiang.train._batches import Examples, padded
from mojiang.train._objective import Losses, Objective
from mojiang.train._parallel import World

Reward = Callable[[str, str], float]


@dataclass(frozen=True)
class Prompt:
    """Something to answer, and what is right."""

    tokens: tuple[int, ...]
    right: str


def encode_prompts(rows: Any, tokenizer: Tokenizer, room: int) -> tuple[list[Prompt], int]:
    """Prompts of at most `room` tokens, ready for the assistant to speak; and the number of longer ones."""
    prompts, too_long = [], 0
    for row in rows:
        ids = tokenizer.render_chat(list(row["prompt"]), add_generation_prompt=True)
        if len(ids) > room:
            too_long += 1
        else:
            prompts.append(Prompt(tuple(ids), row["answer"]))
    if not prompts:
        raise BadInput("there is no prompt to train on", hint=f"{too_long} were longer than {room} tokens")
    return prompts, too_long


@dataclass
class GroupRelative(Objective):
    """GRPO (Shao et al. 2024) with the loss averaged over tokens (DAPO, Yu et al. 2025)."""

    tokenizer: Tokenizer
    reward: Reward
    seed: int
    group: int = 8
    max_tokens: int = 128
    temperature: float = 1.0
    beta: float = 0.02
    clip: float = 0.2
    normalise: bool = True
    """Divide a group's advantages by their standard deviation (off: Dr. GRPO, Liu et al. 2025)."""
    validation: Sequence[Prompt] = ()
    slots: int = 16
    generates = True
    better: str = "higher"
    _engine: Engine | None = None
    _reference: Network | None = None
    _figures: dict[str, float] = field(default_factory=dict)

    def start(self, model: Network) -> None:
        """Keep the model before training as the reference: its base alone where there is an adapter, else a copy."""
        if self.beta and not adapted(model):
            self._reference = copy.deepcopy(model).requires_grad_(False).eval()

    def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def prepare(self, model: Network, batch: Examples, step: int, world: World) -> Examples:
        """Write a group of answers to every prompt, reward them, and say by how much each beats its group."""
        prompts: list[Prompt] = list(batch["prompt"])
        seeds = [_seed(self.seed, step, int(row), n) for row in batch["row"] for n in range(self.group)]
        answers = self._write(model, [p for p in prompts for _ in range(self.group)], seeds, self.temperature)
        rewards = np.array([self.reward(a.text, p.right) for a, p in answers])
        groups = rewards.reshape(-1, self.group)
        advantages = groups - groups.mean(axis=1, keepdims=True)
        if self.normalise:
            advantages /= groups.std(axis=1, keepdims=True) + 1e-4
        rows = _rows([p for _, p in answers], [a.tokens for a, _ in answers], advantages.flatten())
        self._figures = {
            "reward": float(rewards.mean()), "reward_std": float(groups.std(axis=1).mean()),
            "answer_tokens": float(np.mean([len(a.tokens) for a, _ in answers])),
        }  # fmt: skip
        return rows

    def rehearse(self, batch: Examples) -> Examples:
        """The longest answers that may be written."""
        prompts = [prompt for prompt in batch["prompt"] for _ in range(self.group)]
        return _rows(prompts, [prompt.tokens[:1] * self.max_tokens for prompt in prompts], np.zeros(len(prompts)))

    def counts(self, batch: Examples) -> dict[str, float]:
        """Tokens of all answers."""
        return {"loss": float(sum(len(t) - s for t, s in zip(batch["tokens"], batch["start"], strict=True)))}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """The clipped surrogate with the divergence from the reference, summed over the answers' tokens."""
        logprobs_N, rows_N = self._logprobs(model, batch)
        advantages_N = torch.as_tensor(batch["advantage"], device=logprobs_N.device)[rows_N]
        reference_N = self._of_reference(model, batch) if self.beta else None
        total, sums = _losses.grpo_clip(
            logprobs_N, logprobs_N.detach(), advantages_N, self.clip, self.clip, reference_N, self.beta
        )
        if "kl" in sums:
            self._figures["kl"] = float(sums["kl"]) / max(1, len(logprobs_N))
        return {"loss": total}

    def _of_reference(self, model: Network, batch: Examples) -> Tensor:
        with torch.no_grad(), nullcontext() if self._reference is not None else adapter_off(model):
            return self._logprobs(self._reference or model, batch)[0]

    def _logprobs(self, model: Network, batch: Examples) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the answers' tokens at the temperature they were drawn with, and the row of each."""
        tokens_BT, spans_N3 = padded([row[:-1] for row in batch["tokens"]], 0, model.device)
        targets = [np.where(np.arange(1, len(row)) < start, IGNORE, row[1:])
                   for row, start in zip(batch["tokens"], batch["start"], strict=True)]  # fmt: skip
        targets_BT, _ = padded(targets, IGNORE, model.device)
        hidden_BTD = model(tokens_BT, mask=spans_N3)
        at_BT = targets_BT != IGNORE
        hidden_ND = model.head_input(hidden_BTD[at_BT]) / self.temperature
        return _losses.token_logprobs(hidden_ND, model.head.weight, targets_BT[at_BT]), at_BT.nonzero()[:, 0]

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Mean reward of greedy answers to the validation prompts, and the share of them that is right."""
        if not self.validation:
            return {}
        answers = self._write(model, list(self.validation), [0] * len(self.validation), 0.0)
        rewards = [self.reward(answer.text, prompt.right) for answer, prompt in answers]
        right = sum(reward == 1.0 for reward in rewards) / len(rewards)
        return {"validation_reward": float(np.mean(rewards)), "validation_right": right}

    def _write(self, model: Network, prompts: list[Prompt], seeds: list[int], temperature: float) -> Any:
        """One answer to each prompt, by the engine; its tokens include the one that ends it."""
        training = model.training
        if self._engine is None:
            context = min(
                model.config.max_position_embeddings, max(len(p.tokens) for p in prompts) + self.max_tokens + 512
            )
            self._engine = Engine(model, self.tokenizer, slots=self.slots, context=context)
        model.eval()
        requests = [
            GenerationRequest(p.tokens, self.max_tokens, Sampling(temperature=temperature, seed=seed))
            for p, seed in zip(prompts, seeds, strict=True)
        ]
        streams = [self._engine.submit(request, wait=True) for request in requests]
        answers = [stream.result() for stream in streams]
        model.train(training)
        return list(zip(answers, prompts, strict=True))

    def diagnostics(self) -> dict[str, float]:
        """Reward, its spread within groups, lengths and divergence of the last step."""
        return self._figures


def _rows(prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], advantages: Any) -> Examples:
    """Prompts with their answers, as they are trained on."""
    tokens = [np.array([*p.tokens, *answer], np.int64) for p, answer in zip(prompts, answers, strict=True)]
    starts = np.array([len(prompt.tokens) for prompt in prompts])
    columns = {"tokens": tokens, "start": starts, "advantage": np.asarray(advantages, np.float32)}
    return Examples(columns, tokens="tokens")


def _seed(seed: int, step: int, row: int, number: int) -> int:
    """A seed for each answer: the same when the step is taken again."""
    return ((seed * 1_000_003 + step) * 1_000_003 + row) * 1_009 + number

"""Group-relative policy optimisation: learn from answers that can be checked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import AdapterSettings, Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._rollouts import GroupRelative, Prompt


class GRPO(Recipe):
    """Reinforcement learning from verifiable rewards: write a group of answers, check them, prefer the better ones.

    For every prompt the model writes `group` answers; each is rewarded by a function that checks it, and compared with
    the mean of its group. The divergence from the model before training is held down by `beta` and shown.

    When not to use: when the model never finds a right answer by itself, as there is nothing to prefer then; show it
    some first (`sft`). When there is no way to check an answer: use `dpo`.
    Source: Shao et al. 2024 (GRPO); Yu et al. 2025 (DAPO); Liu et al. 2025 (Dr. GRPO); Lambert et al. 2024 (RLVR).
    Example:
        >>> GRPO(model="chat", data="sums", reward="number", steps=100).group
        8
    """

    recipe: ClassVar[str] = "train.grpo"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The model to start from; it is the reference as well."""
    data: DatasetRef
    """Prompts with what is right."""
    reward: Literal["exact", "number", "json", "regex"] = "exact"
    """How an answer is checked against what is right."""
    group: int = Field(8, ge=2, le=256)
    """Answers to each prompt."""
    batch_size: int = Field(8, ge=1)
    """Prompts of an optimizer step."""
    max_tokens: int = Field(128, ge=1)
    """Longest answer."""
    temperature: float = Field(1.0, gt=0, le=10)
    """Of the answers; part of the probabilities that are trained on, too."""
    beta: float = Field(0.02, ge=0)
    """Weight of the divergence from the reference; 0 for none, and no reference in memory."""
    clip: float = Field(0.2, gt=0)
    """How far a probability's ratio may move in one step."""
    normalise: bool = True
    """Divide advantages by their group's standard deviation."""
    validation_prompts: int = Field(100, ge=1)
    """Prompts of the validation split that are answered, greedily, each time."""
    adapter: AdapterSettings = AdapterSettings(rank=0)
    """A low-rank adapter in the place of training all weights."""
    length: Length = Length(epochs=1)
    """How long."""
    optim: Optim = Optim(learning_rate=2e-6, beta2=0.99, warmup_steps=5, schedule="constant")
    """How a gradient becomes a step; with an adapter take about twenty times the rate."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=2)
    """What is looked at on the way."""

    def run(self, run: Run) -> Metrics:
        """Answer, check, learn, save."""
        from mojiang.model.load import load_causal_lm
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._adapters import prepare_adapter, save_adapted
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._batches import Drawn, Examples
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        folder = run.input("model").path
        model, tokenizer = load_causal_lm(folder, device=run.device), load_tokenizer(folder)
        check_vocabulary(tokenizer, model.config)
        room = model.config.max_position_embeddings - self.max_tokens
        prompts = self._prompts(run, tokenizer, "train", room)
        held_out = self._prompts(run, tokenizer, "validation", room)[: self.validation_prompts]
        config = prepare_adapter(model, self.adapter, self.compute, run)
        objective = self._objective(run, tokenizer, held_out)
        objective.start(model)
        batch_size = min(self.batch_size, len(prompts))

        def asked(rows: list[int], step: int) -> Examples:
            return Examples({"prompt": [prompts[row] for row in rows], "row": np.array(rows)})

        tokens = int(np.mean([len(prompt.tokens) for prompt in prompts])) + self.max_tokens
        job = Job(
            model, objective, Drawn(len(prompts), batch_size, run.seed, asked), batch_size, self.length, self.optim,
            self.compute, self.watch.when(bool(held_out)), context=tokens, row_cost=tokens * self.group,
            started=started, before=True,
        )  # fmt: skip
        try:
            training, result = train(run, job)
        finally:
            objective.close()
        metrics = outcome(training, result, job) | {"prompts": len(prompts)}
        metrics |= {f"last_{name}": round(value, 5) for name, value in objective.diagnostics().items()}
        if config is not None:
            return metrics | save_adapted(training.model, config, folder, run)
        save(training, folder, run)
        return metrics

    def _prompts(self, run: Run, tokenizer: Tokenizer, split: str, room: int) -> list[Prompt]:
        from mojiang.data.examples import has_split, read_examples
        from mojiang.train._rollouts import encode_prompts

        data = run.input("data").path
        if split != "train" and not has_split(data, split, "prompts"):
            return []
        prompts, too_long = encode_prompts(read_examples(data, split, "prompts"), tokenizer, room)
        if too_long:
            run.warn(f"{too_long} prompts of the {split} split leave no room for an answer and are left out")
        return prompts

    def _objective(self, run: Run, tokenizer: Tokenizer, held_out: list[Prompt]) -> GroupRelative:
        from mojiang.train._rewards import REWARDS
        from mojiang.train._rollouts import GroupRelative

        return GroupRelative(
            tokenizer, REWARDS[self.reward], run.seed, self.group, self.max_tokens, self.temperature, self.beta,
            self.clip, self.normalise, held_out,
        )  # fmt: skip

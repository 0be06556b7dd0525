"""Reward models: a score for an answer, learnt from which of two was preferred."""

from __future__ import annotations

import time
from typing import ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch


class Reward(Recipe):
    """Train a model that scores answers: the preferred one of a pair higher than the other.

    The network gets a head of one number, read at an answer's last token. The output is an ordinary
    sequence-classification model.

    When not to use: when an answer can be checked by a function (`grpo` takes those), or to train on the pairs
    directly (`dpo`).
    Source: Christiano et al. 2017; Ouyang et al. 2022 (pairwise loss).
    Example:
        >>> Reward(model="chat", data="preferences", epochs=1).batch_size
        16
    """

    recipe: ClassVar[str] = "train.reward"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The model to start from."""
    data: DatasetRef
    """Preferences: prompt, chosen, rejected."""
    batch_size: int = Field(16, ge=1)
    """Pairs of an optimizer step."""
    context: int = Field(1024, ge=32)
    """Longest prompt with answer, in tokens; longer pairs are left out and counted."""
    length: Length = Length(epochs=1)
    """How long."""
    optim: Optim = Optim(learning_rate=2e-5, beta2=0.99, warmup_steps=10, schedule="linear")
    """How a gradient becomes a step."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=2)
    """What is looked at on the way."""

    def run(self, run: Run) -> Metrics:
        """Encode, train, save."""
        from mojiang.model.load import load_model
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._batches import Drawn
        from mojiang.train._preferences import PairwiseReward, read_preferences
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        folder = run.input("model").path
        model = load_model(folder, device=run.device, head="sequence_classification", num_labels=1)
        tokenizer = load_tokenizer(folder)
        check_vocabulary(tokenizer, model.config)
        examples = read_preferences(run, model, tokenizer, "train", self.context)
        held_out = read_preferences(run, model, tokenizer, "validation", self.context)
        assert examples is not None, "a missing train split is an error"
        batch_size = min(self.batch_size, len(examples))
        job = Job(
            model, PairwiseReward(held_out),
            Drawn(len(examples), batch_size, run.seed, lambda rows, _: examples.take(rows)), batch_size, self.length,
            self.optim, self.compute, self.watch.when(held_out is not None), context=self.context,
            row_cost=int(examples.lengths.mean()), started=started, before=True,
        )  # fmt: skip
        training, result = train(run, job)
        save(training, folder, run)
        return outcome(training, result, job) | {"pairs": len(examples)}

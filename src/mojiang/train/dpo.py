"""Direct preference optimisation: learn from which of two answers is better."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import AdapterSettings, Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from mojiang.model.network import Network
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._batches import Examples
    from mojiang.train._objective import Objective


class DPO(Recipe):
    """Train a model to prefer the chosen of two answers over the rejected one, without a reward model.

    dpo: a logistic loss on how much likelier the chosen answer became than the rejected one, against the model before
    training. ipo: a squared loss on the same per token, which does not push certain pairs ever further apart. orpo: no
    reference; likelihood of the chosen answer and an odds-ratio term together. kto: answers called good or bad, each
    on its own.

    When not to use: when the answers of both sides come from elsewhere and the model cannot write either of them yet;
    train it on the chosen ones first (`sft`).
    Source: Rafailov et al. 2023 (DPO); Azar et al. 2023 (IPO); Hong et al. 2024 (ORPO); Ethayarajh et al. 2024 (KTO).
    Example:
        >>> DPO(model="chat", data="preferences", loss="ipo", rank=16).adapter.rank
        16
    """

    recipe: ClassVar[str] = "train.dpo"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The model to start from; it is the reference as well."""
    data: DatasetRef
    """Preferences: prompt, chosen, rejected (for kto also prompt, completion, desirable)."""
    loss: Literal["dpo", "ipo", "orpo", "kto"] = "dpo"
    """Which loss."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to the reference (orpo: weight of the odds-ratio term)."""
    batch_size: int = Field(16, ge=1)
    """Pairs (kto: answers) of an optimizer step."""
    context: int = Field(1024, ge=32)
    """Longest prompt with answer, in tokens; longer pairs are left out and counted."""
    validation_examples: int = Field(256, ge=1)
    """Examples of the validation split that are looked at each time, drawn once."""
    adapter: AdapterSettings = AdapterSettings(rank=0)
    """A low-rank adapter in the place of training all weights."""
    length: Length = Length(epochs=1)
    """How long."""
    optim: Optim = Optim(learning_rate=5e-6, beta2=0.99, warmup_steps=10, schedule="linear")
    """How a gradient becomes a step; with an adapter take about twenty times the rate."""
    compute: Compute = Compute()
    """How the work is done."""
    watch: Watch = Watch(validations=2)
    """What is looked at on the way."""

    def run(self, run: Run) -> Metrics:
        """Encode, ask the reference, train, save."""
        from mojiang.model.load import load_causal_lm
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._adapters import prepare_adapter, save_adapted
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._batches import Drawn
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        folder = run.input("model").path
        model, tokenizer = load_causal_lm(folder, device=run.device), load_tokenizer(folder)
        check_vocabulary(tokenizer, model.config)
        config = prepare_adapter(model, self.adapter, self.compute, run)
        examples = self._examples(run, model, tokenizer, "train")
        held_out = self._examples(run, model, tokenizer, "validation")
        assert examples is not None, "a missing train split is an error"
        batch_size = min(self.batch_size, len(examples))
        source = Drawn(len(examples), batch_size, run.seed, lambda rows, _: examples.take(rows))
        job = Job(
            model, self._objective(held_out), source, batch_size, self.length, self.optim, self.compute,
            self.watch.when(held_out is not None), context=self.context,
            row_cost=int(examples.lengths.mean()), max_epochs=5, started=started, before=True,
        )  # fmt: skip
        training, result = train(run, job)
        metrics = outcome(training, result, job) | {"examples": len(examples)}
        if config is not None:
            return metrics | save_adapted(training.model, config, folder, run)
        save(training, folder, run)
        return metrics

    def _examples(self, run: Run, model: Network, tokenizer: Tokenizer, split: str) -> Examples | None:
        """The split's rows with what the reference thinks of them; None where there is no such split."""
        import numpy as np

        from mojiang.tokenizer._pack import keyed_order
        from mojiang.train._preferences import read_preferences, reference_logprobs
        from mojiang.train._session import MICRO_TOKENS

        judged = self.loss == "kto"
        examples = read_preferences(run, model, tokenizer, split, self.context, judged)
        if examples is not None and split == "validation":
            # The same ones whatever the seed, so that runs can be compared.
            drawn = keyed_order(len(examples), 0, 0)[: self.validation_examples]
            examples = examples.take(np.sort(drawn).tolist())
        asked_as_they_come = self.adapter.rank and split == "train"  # a full model has no copy of what it was
        if examples is None or self.loss == "orpo" or asked_as_they_come:
            return examples
        sides = ["answer", "other"] if judged else ["chosen", "rejected"]
        return reference_logprobs(
            run, model, examples, sides, run.scratch / f"reference-{split}.npz", self.compute.micro or MICRO_TOKENS
        )

    def _objective(self, held_out: Examples | None) -> Objective:
        from mojiang.train._preferences import Judged, Preference
        from mojiang.train._session import MICRO_TOKENS

        if self.loss == "kto":
            return Judged(self.beta, self.compute.micro or MICRO_TOKENS, held_out)
        return Preference(self.loss, self.beta, held_out)

"""Low-rank adaptation: fine-tune on conversations with a thousandth of the weights."""

from __future__ import annotations

import time
from typing import ClassVar

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import AdapterSettings, Compute, Length, Optim, Watch


class Lora(Recipe):
    """Fine-tune a model on conversations through low-rank adapters (LoRA, rsLoRA, DoRA, and QLoRA with 4-bit weights).

    The model's own weights are frozen; a pair of thin matrices beside each projection is trained. The output is the
    merged model, an ordinary one, with the adapter itself in `adapter/` in PEFT's format, and the largest difference
    between merged and applied logits in its metrics.

    When not to use: for a small model and much data, where training all weights (`sft`) costs little more and
    learns more.
    Source: Hu et al. 2021 (LoRA); Kalajdzievski 2023 (rsLoRA); Liu et al. 2024 (DoRA); Dettmers et al. 2023 (QLoRA).
    Example:
        >>> Lora(model="base", data="chats", rank=8, base="nf4").adapter.rank
        8
    """

    recipe: ClassVar[str] = "train.lora"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The model to start from."""
    data: DatasetRef
    """Conversations, split into train and validation."""
    batch_tokens: int = Field(4096, ge=32)
    """Tokens of an optimizer step, rounded down to whole rows."""
    context: int | None = Field(None, ge=32)
    """Tokens a row holds; left out: as many as the model reads, but at most `batch_tokens`."""
    adapter: AdapterSettings = AdapterSettings(rank=16)
    """The adapter's shape."""
    length: Length = Length(epochs=1)
    """How long."""
    optim: Optim = Optim(optimizer="adamw", learning_rate=5e-4, beta2=0.99, warmup_steps=10, schedule="linear")
    """How a gradient becomes a step."""
    compute: Compute = Compute()
    """How the work is done."""
    watch: Watch = Watch(validations=2)
    """What is looked at on the way."""

    @model_validator(mode="after")
    def _has_rank(self) -> Lora:
        if self.adapter.rank == 0:
            raise ValueError("rank is 0, which trains no adapter; to train all weights use train.sft")
        return self

    def run(self, run: Run) -> Metrics:
        """Freeze, pack, audit, train, merge."""
        from mojiang.model.load import load_causal_lm
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._adapters import prepare_adapter, save_adapted
        from mojiang.train._conversations import packed, read_audited
        from mojiang.train._session import Job, outcome, train
        from mojiang.train.sft import MAX_EPOCHS, row_length

        started = time.monotonic()
        folder = run.input("model").path
        model, tokenizer = load_causal_lm(folder, device=run.device), load_tokenizer(folder)
        chats = read_audited(run, model, tokenizer)
        config = prepare_adapter(model, self.adapter, self.compute, run)
        assert config is not None, "the rank was checked"
        context = row_length(self.context, self.batch_tokens, model)
        source, objective, batch_rows = packed(chats, context, self.batch_tokens, 0.0, run.seed)
        job = Job(
            model, objective, source, batch_rows, self.length, self.optim, self.compute,
            self.watch.when(chats.validation is not None), context=context, row_cost=context, max_epochs=MAX_EPOCHS,
            started=started, before=True,
        )  # fmt: skip
        training, result = train(run, job)
        metrics = outcome(training, result, job)
        return metrics | save_adapted(training.model, config, folder, run) | {"conversations": len(chats.train)}

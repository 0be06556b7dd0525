"""Supervised fine-tuning: a model that continues text becomes one that answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from mojiang.model.network import Network

MAX_EPOCHS = 5  # with --minutes; more passes over mined pairs only memorise them


class SFT(Recipe):
    """Fine-tune a model on conversations; only the assistant's turns are trained on.

    Several conversations share a row without seeing each other. Before the first step the labels are audited: every
    answer with its stop token is trained on, nothing else is, or nothing is trained. With `replay`, part of every
    batch is text of the pre-training corpus, so that the model does not forget it.

    When not to use: to teach a model new facts or a new language; that takes pre-training on text.
    Source: Ouyang et al. 2022 (instruction tuning); Scialom et al. 2022 (rehearsal).
    Example:
        >>> SFT(model="base", data="pairs", epochs=1).replay_share
        0.25
    """

    recipe: ClassVar[str] = "train.sft"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The model to start from."""
    data: DatasetRef
    """Conversations, split into train and validation."""
    replay: DatasetRef | None = None
    """A corpus of documents to go on training on; usually the one of pre-training."""
    replay_share: float = Field(0.25, gt=0, lt=1)
    """Share of each batch's rows that come from `replay`."""
    batch_tokens: int = Field(4096, ge=32)
    """Tokens of an optimizer step, rounded down to whole rows."""
    context: int | None = Field(None, ge=32)
    """Tokens a row holds; left out: as many as the model reads, but at most `batch_tokens`."""
    length: Length = Length(epochs=1)
    """How long; with minutes the model sees the conversations at most 5 times."""
    optim: Optim = Optim(
        optimizer="muon", learning_rate=0.004, embedding_learning_rate=0.0003, warmup_steps=5, decay_share=0.8
    )
    """How a gradient becomes a step; best the optimizer the model was pre-trained with."""
    compute: Compute = Compute()
    """How the work is done."""
    watch: Watch = Watch(validations=1)
    """What is looked at on the way."""

    def run(self, run: Run) -> Metrics:
        """Pack, audit, train, save the model folder."""
        from mojiang.model.load import load_causal_lm
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._conversations import packed, read_audited
        from mojiang.train._parallel import loading_device
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        folder = run.input("model").path
        device = loading_device(self.compute.parallel, run.device)
        model, tokenizer = load_causal_lm(folder, device=device), load_tokenizer(folder)
        replay = run.input("replay").path if self.replay else None
        chats = read_audited(run, model, tokenizer, replay)
        context = row_length(self.context, self.batch_tokens, model)
        source, objective, batch_rows = packed(chats, context, self.batch_tokens, self.replay_share, run.seed)
        job = Job(
            model, objective, source, batch_rows, self.length, self.optim, self.compute,
            self.watch.when(chats.validation is not None), context=context, row_cost=context, max_epochs=MAX_EPOCHS,
            started=started, before=True,
        )  # fmt: skip
        training, result = train(run, job)
        save(training, folder, run)
        metrics = outcome(training, result, job)
        return metrics | {"conversations": len(chats.train), "audited_stop_tokens": chats.audit.stops}


def row_length(wanted: int | None, batch_tokens: int, model: Network) -> int:
    """Tokens of a row: an imported model may read 131,072 of them, and conversations need a batch's at most."""
    return min(wanted or batch_tokens, int(model.config.max_position_embeddings), batch_tokens)

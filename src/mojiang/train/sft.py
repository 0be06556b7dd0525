"""Supervised fine-tuning: a model that continues text becomes one that answers."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.files import atomic_write
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run

if TYPE_CHECKING:
    from mojiang.tokenizer._pack import Shards
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._batches import Source
    from mojiang.train._loop import Settings, Training

VALIDATION_ROWS = 64
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
    epochs: float | None = Field(None, gt=0, le=100)
    """Passes over the conversations."""
    minutes: float | None = Field(None, gt=0)
    """Wall-clock minutes for the whole step, instead of epochs; the model may see the conversations at most 5 times."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of epochs."""
    batch_tokens: int = Field(4096, ge=32)
    """Tokens of an optimizer step, rounded down to whole rows of the model's context."""
    micro_tokens: int = Field(8192, ge=32)
    """Tokens in memory at once; changes memory and speed, not the result."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Best the one the model was pre-trained with."""
    learning_rate: float = Field(0.004, gt=0)
    """Peak rate of the matrices (for adamw about 0.0003)."""
    embedding_learning_rate: float = Field(0.0003, gt=0)
    """Peak rate of embeddings and norms (AdamW)."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled, on the matrices."""
    warmup_steps: int = Field(5, ge=1)
    """Steps until the peak rate."""
    decay_share: float = Field(0.8, gt=0, le=1)
    """Share of the steps, at the end, over which the rate falls to zero."""
    clip: float = Field(1.0, ge=0)
    """Longest gradient; 0 for no clipping."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor has instructions for it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: when the run is long enough to earn the compile time back."""

    @model_validator(mode="after")
    def _one_length(self) -> SFT:
        if sum(length is not None for length in (self.epochs, self.minutes, self.steps)) != 1:
            raise ValueError("give exactly one of epochs, minutes and steps")
        return self

    def run(self, run: Run) -> Metrics:
        """Pack, audit, train, save the model folder."""
        from mojiang.model.load import save_model
        from mojiang.tokenizer._pack import PackedRows
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import audit_conversations
        from mojiang.train._loop import fit
        from mojiang.train._loss import measure_loss

        started = time.monotonic()
        folder = run.input("model").path
        tokenizer = load_tokenizer(folder)
        conversations, held_out, replay = self._shards(run, tokenizer)
        audit = audit_conversations(conversations, tokenizer)
        run.log(
            f"label audit passed: {audit.trained:,} of {audit.tokens:,} tokens trained on in {audit.conversations:,} "
            f"conversations, {audit.stops:,} stop tokens among them"
        )
        training, source, epochs = self._plan(run, conversations, replay, started)
        settings = training.settings
        run.log(
            f"plan: {settings.num_steps} steps of {settings.batch_rows} rows, {epochs:.1f} epochs, "
            f"{settings.precision}{', compiled' if training.compiled else ''}"
        )
        validation = PackedRows(held_out, settings.context) if held_out is not None and len(held_out) else None
        before = (
            measure_loss(training.model, validation, VALIDATION_ROWS) if validation and training.step == 0 else None
        )
        result = fit(training, source)
        save_model(training.model, folder, run.out)
        metrics: Metrics = {
            "steps": result.steps, "tokens": result.tokens, "epochs": round(epochs, 3), "loss": round(result.loss, 5),
            "conversations": len(conversations), "audited_stop_tokens": audit.stops,
            "train_seconds": round(result.seconds, 2), "precision": settings.precision,
        }  # fmt: skip
        if validation is not None:
            metrics["validation_loss"] = round(measure_loss(training.model, validation, VALIDATION_ROWS), 5)
        if before is not None:
            metrics["validation_loss_before"] = round(before, 5)
        return metrics

    def _shards(self, run: Run, tokenizer: Tokenizer) -> tuple[Shards, Shards | None, Shards | None]:
        """Token shards of the conversations (train, validation) and of the text to replay."""
        from mojiang.core.errors import BadInput
        from mojiang.data._documents import read_documents
        from mojiang.data.mine import read_conversations
        from mojiang.tokenizer._encode import conversation_sequences, document_sequences, read_texts
        from mojiang.tokenizer._pack import Shards, write_shards

        def shards(name: str, sequences: object) -> Shards:
            folder = run.scratch / f"tokens-{name}"
            if (folder / "index.json").exists():
                return Shards(folder)
            return write_shards(sequences, folder, tokenizer.vocab_size)  # type: ignore[arg-type]

        def chats(split: str) -> Shards:
            conversations = (list(row["messages"]) for row in read_conversations(run.input("data").path, split))
            return shards(split, conversation_sequences(conversations, tokenizer))

        train = chats("train")
        if len(train) == 0:
            raise BadInput(
                f"{self.data} has no conversation to train on", hint="its report says what was found and dropped"
            )
        validation = chats("validation") if (run.input("data").path / "validation").is_dir() else None
        replay = None
        if self.replay is not None:
            texts = read_texts(read_documents(run.input("replay").path, "train", columns=["id", "text", "format"]))
            replay = shards("replay", document_sequences(texts, tokenizer, seed=run.seed))
        return train, validation, replay

    def _plan(
        self, run: Run, conversations: Shards, replay: Shards | None, started: float
    ) -> tuple[Training, Source, float]:
        """Settings from the first attempt if there was one; the training continued from its checkpoint."""
        import json

        from mojiang.model.load import load_model
        from mojiang.tokenizer._pack import PackedRows
        from mojiang.train._batches import Mixed, Shuffled
        from mojiang.train._loop import Settings, Training

        model = load_model(run.input("model").path, device=run.device)
        # An imported model may read 131,072 tokens; conversations need a row, not that.
        context = min(model.config.max_position_embeddings, self.batch_tokens, self.micro_tokens)
        rows = PackedRows(conversations, context)
        replayed = PackedRows(replay, context) if replay is not None else None
        batch_rows = max(1, min(self.batch_tokens // context, len(rows)))
        replay_rows = min(max(1, round(batch_rows * self.replay_share)), max(1, batch_rows - 1)) if replayed else 0
        main_rows = max(1, batch_rows - replay_rows)
        path = run.scratch / "settings.json"
        saved = Settings(**json.loads(path.read_text())) if path.exists() else None
        size = model.config.num_parameters
        settings = saved or self._settings(run, main_rows + replay_rows, context, len(rows) / main_rows, size)
        source: Source = Shuffled(rows, main_rows, run.seed)
        if replayed is not None:
            slots = max(rows.spans_per_row, replayed.spans_per_row)
            rows.spans_per_row = replayed.spans_per_row = slots
            source = Mixed(source, Shuffled(replayed, replay_rows, run.seed + 1))
        training = Training(model, settings, run)
        if settings.compile:
            training.compile(source.batch(0).part(0, settings.micro_rows))
        if saved is None:
            settings = replace(settings, compile=training.compiled)
            if self.minutes is not None:
                per_step = training.time_steps(source.batch, 3)
                seconds = 0.92 * (60 * self.minutes - (time.monotonic() - started))
                most = max(1, int(MAX_EPOCHS * len(rows) / main_rows))
                settings = replace(settings, num_steps=min(max(1, int(seconds / per_step)), most))
                original = load_model(run.input("model").path, device=run.device)
                training.model.load_state_dict(original.state_dict())
            training = training.again(settings)
            atomic_write(path, json.dumps(asdict(settings)))
        elif training.resume():
            run.log(f"continuing at step {training.step} of {settings.num_steps}")
        return training, source, settings.num_steps * main_rows / len(rows)

    def _settings(self, run: Run, batch_rows: int, context: int, steps_per_epoch: float, parameters: int) -> Settings:
        from mojiang.core.engine import cpu_count
        from mojiang.train._loop import Settings
        from mojiang.train._peak import fast_dtype, measure_peak
        from mojiang.train._plan import largest_divisor
        from mojiang.train.pretrain import COMPILE_FLOPS

        dtype = fast_dtype(run.device, self.precision)
        num_steps = self.steps or max(1, round((self.epochs or 1.0) * steps_per_epoch))
        # A budget of minutes ends sooner than an epoch may: at about 0.6 s a step, compiling must earn its time in it.
        expected = num_steps if self.minutes is None else min(num_steps, 60 * self.minutes / 0.6)
        work = 6.0 * parameters * expected * batch_rows * context
        return Settings(
            num_steps=num_steps, batch_rows=batch_rows,
            micro_rows=largest_divisor(batch_rows, self.micro_tokens // context),
            context=context,
            lr_matrix=self.learning_rate, lr_embedding=self.embedding_learning_rate,
            optimizer=self.optimizer, weight_decay=self.weight_decay, warmup=self.warmup_steps,
            decay_share=self.decay_share, clip=self.clip, precision="bf16" if dtype.itemsize == 2 else "fp32",
            compile=self.compile == "on" or (self.compile == "auto" and work > COMPILE_FLOPS),
            num_threads=cpu_count(), validations=0, peak_flops=measure_peak(run.device, dtype),
        )  # fmt: skip

"""Pre-training: a language model from nothing but text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe, TokenizerRef
from mojiang.core.run import Run

if TYPE_CHECKING:
    from mojiang.tokenizer._pack import PackedRows, Shards
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._loop import Training
    from mojiang.train._plan import Plan, Shape

VALIDATION_SHARE = 0.015  # of the time, for each validation during training


class Pretrain(Recipe):
    """Train a language model from scratch on packed documents.

    One dial: `minutes`. A few steps are timed on this machine, then depth, width and number of tokens are chosen for
    the time and the corpus, and printed. Give `steps` instead for the same shape and length on every machine.

    When not to use: when a pre-trained model of the language exists; then `sft` needs far less text and time.
    Source: Hoffmann et al. 2022 (compute-optimal training); Jordan et al. 2024 (Muon); Hu et al. 2024 (schedule).
    Example:
        >>> Pretrain(data="corpus", tokenizer="bpe", minutes=5).optimizer
        'muon'
    """

    recipe: ClassVar[str] = "train.pretrain"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Documents, split into train and validation."""
    tokenizer: TokenizerRef
    """The tokenizer to use; it is copied into the model."""
    minutes: float | None = Field(None, gt=0, le=60 * 24 * 30)
    """Wall-clock minutes for the whole step, planning and compiling included."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of minutes."""
    depth: int | None = Field(None, ge=1, le=128)
    """Layers; chosen when left out."""
    width: int | None = Field(None, ge=64, le=16384, multiple_of=64)
    """Hidden size; chosen when left out."""
    context: int = Field(1024, ge=32, le=131072)
    """Tokens a row holds, and the longest text the model reads."""
    batch_tokens: int = Field(4096, ge=32)
    """Tokens of an optimizer step."""
    micro_tokens: int = Field(8192, ge=32)
    """Tokens in memory at once; changes memory and speed, not the result."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for the matrices with AdamW for the rest, or AdamW for everything."""
    learning_rate: float = Field(0.02, gt=0)
    """Peak rate of the matrices (for adamw about 0.002)."""
    embedding_learning_rate: float = Field(0.0012, gt=0)
    """Peak rate of embeddings and norms (AdamW)."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled, on the matrices."""
    warmup_steps: int = Field(20, ge=1)
    """Steps until the peak rate."""
    decay_share: float = Field(0.7, gt=0, le=1)
    """Share of the steps, at the end, over which the rate falls to zero."""
    clip: float = Field(1.0, ge=0)
    """Longest gradient over all parameters; 0 for no clipping. (Muon's updates have one length anyway.)"""
    fim_rate: float = Field(0.1, ge=0, le=1)
    """Share of code documents rearranged to teach filling in the middle."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor has instructions for it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: when the run is long enough to earn the compile time back."""
    validations: int = Field(4, ge=0, le=100)
    """Times that bits per byte are measured on validation documents."""

    @model_validator(mode="after")
    def _one_length(self) -> Pretrain:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give either minutes or steps")
        if self.batch_tokens % self.context or self.micro_tokens < self.context:
            raise ValueError(
                f"batch_tokens ({self.batch_tokens}) must be a multiple of context ({self.context}), "
                f"micro_tokens ({self.micro_tokens}) at least as large"
            )
        return self

    def run(self, run: Run) -> Metrics:
        """Pack, plan, train, save the model folder."""
        from mojiang.model.load import save_model
        from mojiang.tokenizer._pack import PackedRows
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._batches import Shuffled
        from mojiang.train._loop import fit
        from mojiang.train._plan import Plan

        started = time.monotonic()
        tokenizer = load_tokenizer(run.input("tokenizer").path)
        shards, held_out = self._shards(run, tokenizer)
        rows = PackedRows(shards, self.context)
        if held_out is not None and len(held_out):
            # One compiled graph serves training and validation only if their span tables have one shape.
            rows.spans_per_row = max(rows.spans_per_row, PackedRows(held_out, self.context).spans_per_row)
        run.log(
            f"{len(shards):,} sequences, {rows.num_targets:,} tokens in {len(rows):,} rows ({rows.token_use:.1%} used)"
        )
        plan = Plan.load(run.scratch / "plan.json")
        if plan is None:
            plan, training, validation = self._plan(run, tokenizer, rows, held_out, started)
            plan.save(run.scratch / "plan.json")
        else:
            validation = _sample(held_out, plan.validation_tokens, self.context, rows)
            training = self._training(run, tokenizer, plan, rows)
            if training.resume():
                run.log(f"continuing at step {training.step} of {plan.settings.num_steps}")
        run.log(plan.describe())
        result = fit(training, Shuffled(rows, plan.settings.batch_rows, run.seed), validation)
        save_model(training.model, run.input("tokenizer").path, run.out)
        metrics: Metrics = {
            "parameters": plan.parameters, "steps": result.steps, "tokens": result.tokens,
            "epochs": round(plan.epochs, 3),
            "loss": round(result.loss, 5), "train_seconds": round(result.seconds, 2),
            "tokens_per_second": round(result.tokens / max(result.seconds, 1e-9), 1),
            "precision": plan.settings.precision,
            "compiled": int(result.compiled),
        }  # fmt: skip
        if validation is not None and self.validations:
            metrics["validation_bits_per_byte"] = round(result.bits_per_byte, 5)
        return metrics

    def _shards(self, run: Run, tokenizer: Tokenizer) -> tuple[Shards, Shards | None]:
        """Token shards of the train and validation documents, made once per run and kept in its scratch."""
        from mojiang.core.errors import BadInput
        from mojiang.data._documents import read_documents
        from mojiang.tokenizer._encode import document_sequences, read_texts
        from mojiang.tokenizer._pack import Shards, write_shards
        from mojiang.train._plan import MIN_BYTES

        data = run.input("data").path
        made: dict[str, Shards] = {}
        for split in ("train", "validation"):
            folder = run.scratch / f"tokens-{split}"
            if (folder / "index.json").exists():
                made[split] = Shards(folder)
            elif any((data / split).glob("documents-*.parquet")):
                batches = read_documents(data, split, columns=["id", "text", "format"])
                rate = self.fim_rate if split == "train" else 0.0
                sequences = document_sequences(
                    read_texts(batches), tokenizer, seed=run.seed, fim_rate=rate, fim_characters=2 * self.context
                )
                made[split] = write_shards(sequences, folder, tokenizer.vocab_size)
        if "train" not in made or made["train"].num_text_bytes < MIN_BYTES:
            size = made["train"].num_text_bytes if "train" in made else 0
            raise BadInput(
                f"the corpus has {size:,} bytes to train on; at least {MIN_BYTES:,} are needed",
                hint=f"add {MIN_BYTES - size:,} bytes or more of text; a useful model takes a megabyte and up",
            )
        return made["train"], made.get("validation")

    def _plan(
        self, run: Run, tokenizer: Tokenizer, rows: PackedRows, held_out: Shards | None, started: float
    ) -> tuple[Plan, Training, PackedRows | None]:
        """Choose shape and steps; the model that comes with the plan is compiled and has taken no step."""
        from dataclasses import replace

        from mojiang.core.engine import cpu_count
        from mojiang.train import _plan as planning
        from mojiang.train._loop import Settings
        from mojiang.train._peak import fast_dtype, measure_peak

        dtype = fast_dtype(run.device, self.precision)
        batch_rows = min(self.batch_tokens // self.context, len(rows))
        micro_rows = planning.largest_divisor(batch_rows, self.micro_tokens // self.context)
        shape = self._shape(tokenizer, rows, dtype, run.device, started)
        config = shape.config(tokenizer.vocab_size, self.context, tokenizer.eos_id, tokenizer.pad_id)
        num_threads = cpu_count()
        if self.minutes is not None and run.device == "cpu":
            num_threads = planning.fastest_threads(num_threads, config, micro_rows, self.context, dtype)
        expected = self.steps or int(60 * (self.minutes or 0) / 0.5)
        work = 6.0 * config.num_parameters * expected * batch_rows * self.context
        compile = self.compile == "on" or (self.compile == "auto" and work > COMPILE_FLOPS)
        settings = Settings(
            num_steps=expected, batch_rows=batch_rows, micro_rows=micro_rows, context=self.context,
            lr_matrix=self.learning_rate, lr_embedding=self.embedding_learning_rate, optimizer=self.optimizer,
            weight_decay=self.weight_decay, warmup=self.warmup_steps, decay_share=self.decay_share, clip=self.clip,
            precision="bf16" if dtype.itemsize == 2 else "fp32", compile=compile, num_threads=num_threads,
            validations=self.validations if held_out is not None else 0,
            peak_flops=measure_peak(run.device, dtype),
        )  # fmt: skip
        plan = planning.Plan(
            shape=shape, settings=settings, tokens=0, epochs=0.0, parameters=config.num_parameters,
            memory_bytes=planning.memory_bytes(config, micro_rows * self.context, dtype), validation_tokens=0,
        )  # fmt: skip
        training = self._training(run, tokenizer, plan, rows)
        seconds, num_steps = None, expected
        tokens_per_step = batch_rows * self.context
        validation_tokens = 2**17
        if self.minutes is not None:
            per_step = training.time_steps(lambda step: rows.rows(range(batch_rows)), 4)
            seconds = 60 * self.minutes - (time.monotonic() - started)
            validation_tokens = int(VALIDATION_SHARE * 60 * self.minutes * 3 * tokens_per_step / per_step)
            seconds *= 0.94 - settings.validations * VALIDATION_SHARE
            most = planning.MAX_EPOCHS * rows.num_targets // tokens_per_step
            num_steps = max(1, min(int(seconds / per_step), most))
            seconds = num_steps * per_step
        settings = replace(settings, num_steps=num_steps, compile=training.compiled)
        tokens = int(num_steps * tokens_per_step * rows.token_use)
        plan = replace(
            plan, settings=settings, tokens=tokens, epochs=tokens / rows.num_targets, seconds=seconds,
            validation_tokens=validation_tokens,
        )  # fmt: skip
        return plan, training.restarted(settings), _sample(held_out, validation_tokens, self.context, rows)

    def _shape(self, tokenizer: Tokenizer, rows: PackedRows, dtype: object, device: str, started: float) -> Shape:
        from mojiang.train import _plan as planning

        if self.minutes is None or (self.depth and self.width):
            shape = planning.shape_for_corpus(rows.num_targets)
        else:
            batch = min(self.batch_tokens // self.context, len(rows))
            cost = planning.probe_speed(tokenizer.vocab_size, batch, self.context, dtype, device)  # type: ignore[arg-type]
            left = 60 * self.minutes - (time.monotonic() - started)
            shape = planning.choose_shape(rows.num_targets, lambda s: 0.85 * left / cost(s))
        return planning.Shape(self.width or shape.hidden_size, self.depth or shape.num_layers)

    def _training(self, run: Run, tokenizer: Tokenizer, plan: Plan, rows: PackedRows) -> Training:
        from mojiang.model.decoder import Decoder
        from mojiang.train._loop import Training

        config = plan.shape.config(tokenizer.vocab_size, self.context, tokenizer.eos_id, tokenizer.pad_id)
        model = Decoder(config).init_weights(run.seed).to(run.device)
        training = Training(model, plan.settings, run)
        if plan.settings.compile:
            training.compile(rows.rows(range(plan.settings.micro_rows)))
        return training


COMPILE_FLOPS = 8e12
"""Work from which `compile=auto` compiles: it took 3 to 24 s on 2 cores, and small models then train up to 1.7 times
faster; shorter runs hardly earn that back."""


def _sample(held_out: Shards | None, num_tokens: int, context: int, like: PackedRows) -> PackedRows | None:
    """Rows of validation documents, drawn evenly, of about `num_tokens` tokens and with span slots as in training."""
    import numpy as np

    from mojiang.tokenizer._pack import PackedRows, keyed_order

    if held_out is None or len(held_out) == 0:
        return None
    order = keyed_order(len(held_out), 0, 0)
    enough = int(np.searchsorted(np.cumsum(held_out.lengths[order]), num_tokens)) + 1
    packed = PackedRows(held_out, context, chosen=order[:enough])
    packed.spans_per_row = like.spans_per_row = max(packed.spans_per_row, like.spans_per_row)
    return packed

"""Pre-training: a language model from nothing but text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.run import Run
from mojiang.train._families import SEQ2SEQ, TRAINS, FamilyName, ObjectiveName, check_family
from mojiang.train._settings import Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from mojiang.model.network import Network
    from mojiang.tokenizer._pack import Shards
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._batches import Source
    from mojiang.train._corruption import Layout, Noise
    from mojiang.train._loop import Training
    from mojiang.train._objective import Objective
    from mojiang.train._plan import Plan

MAX_EPOCHS = 24
VALIDATION_SHARE = 0.015
"""Of the time, for each validation during training."""


class Pretrain(Recipe):
    """Train a language model from scratch on documents, or go on training one: decoders, encoders, encoder–decoders.

    One dial: `minutes`. A few steps are timed on this machine, then depth, width and number of tokens are chosen for
    the time and the corpus, and printed. Give `steps` instead for the same shape and length on every machine. What is
    trained is the `objective`: to continue text, or to restore what was hidden, swapped or replaced in it.

    When not to use: when a pre-trained model of the language exists; then `sft` needs far less text and time.
    Source: Hoffmann et al. 2022 (compute-optimal training); Jordan et al. 2024 (Muon); Hu et al. 2024 (schedule);
    Devlin et al. 2019, Lan et al. 2020, Clark et al. 2020, Raffel et al. 2020, Lewis et al. 2020 (objectives).
    Example:
        >>> Pretrain(data="corpus", tokenizer="bpe", minutes=5).optim.optimizer
        'muon'
    """

    recipe: ClassVar[str] = "train.pretrain"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Documents, split into train and validation."""
    tokenizer: TokenizerRef | None = None
    """The tokenizer to use; it is copied into the model. Not with `model`, which has its own."""
    model: ModelRef | None = None
    """A model to go on training, instead of a new one."""
    objective: ObjectiveName = "causal"
    """causal: the next token; masked: hidden tokens (_nsp, _sop: and whether two texts belong together, are in order);
    replaced_token: which tokens were replaced; span_corruption: what stood in holes; denoising: the ungarbled text."""
    family: FamilyName | None = None
    """Architecture of a new model; left out: qwen3, or what the objective is known from (bert, albert, electra, t5,
    bart)."""
    depth: int | None = Field(None, ge=1, le=128)
    """Layers of a new model; chosen when left out."""
    width: int | None = Field(None, ge=64, le=16384, multiple_of=64)
    """Hidden size of a new model; chosen when left out."""
    context: int = Field(1024, ge=32, le=131072)
    """Tokens a row holds, and the longest text a new model reads."""
    batch_tokens: int = Field(4096, ge=32)
    """Tokens of an optimizer step."""
    fim_rate: float = Field(0.1, ge=0, le=1)
    """With objective causal, share of code documents rearranged to teach filling in the middle."""
    mask_rate: float | None = Field(None, gt=0, lt=1)
    """Share of tokens that other objectives hide; left out: 0.15, with denoising 0.3."""
    whole_words: bool = False
    """Mask whole words, not pieces of them."""
    length: Length = Length(minutes=10)
    """How long."""
    optim: Optim = Optim(
        optimizer="muon", learning_rate=0.02, embedding_learning_rate=0.0012, weight_decay=0.05, warmup_steps=20
    )
    """How a gradient becomes a step."""
    compute: Compute = Compute()
    """How the work is done."""
    watch: Watch = Watch()
    """What is looked at on the way."""

    @model_validator(mode="after")
    def _consistent(self) -> Pretrain:
        if (self.tokenizer is None) == (self.model is None):
            raise ValueError("give either a tokenizer (for a new model) or a model (to go on training it)")
        if self.model and (self.depth or self.width):
            raise ValueError("depth and width are those of the model that is trained on; leave them out")
        if self.batch_tokens % self.context:
            raise ValueError(f"batch_tokens ({self.batch_tokens}) must be a multiple of context ({self.context})")
        if self.model and self.family:
            raise ValueError("the family is that of the model that is trained on; leave it out")
        if self.mask_rate is not None and self.objective == "causal":
            raise ValueError("mask_rate is for objectives that hide tokens, and causal hides none")
        if self.whole_words and not self.objective.startswith(("masked", "replaced")):
            raise ValueError(f"whole_words is for objectives that mask tokens; {self.objective} does not")
        if self.family:
            try:
                check_family(self.objective, self.family)
            except BadInput as error:
                raise ValueError(f"{error}; {error.hint}") from None
        return self

    def run(self, run: Run) -> Metrics:
        """Lay out, plan, train, save the model folder."""
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        origin = run.input("model" if self.model else "tokenizer").path
        tokenizer, family = load_tokenizer(origin), self._family(origin)
        noise = self._noise(tokenizer)
        shards, held_out = self._shards(run, tokenizer, noise)
        rows = self._layout(shards, noise)
        run.log(
            f"{len(shards):,} sequences, {rows.num_targets:,} tokens in {len(rows):,} rows ({rows.token_use:.1%} used)"
        )
        batch_rows = min(max(1, self.batch_tokens // rows.row_tokens), len(rows))
        plan = self._plan(run, tokenizer, rows.num_targets, batch_rows, family)
        model = self._model(run, origin, tokenizer, plan, family)
        validation = self._sample(held_out, plan.validation_tokens, rows, noise) if self.watch.validations else None
        objective, source = self._task(run, model, rows, validation, batch_rows, noise)
        job = Job(
            model, objective, source, batch_rows, self.length, self.optim, self.compute,
            self.watch.when(validation is not None), context=self.context, row_cost=rows.row_tokens,
            max_epochs=MAX_EPOCHS, started=started, num_threads=plan.num_threads,
        )  # fmt: skip
        training, result = train(run, job)
        metrics = outcome(training, result, job)
        if self.objective == "replaced_token":
            self._keep_discriminator(run, training)
        save(training, origin, run)
        return metrics

    def _family(self, origin: Path) -> str:
        """The architecture, refused where the objective cannot train it."""
        from mojiang.model.load import read_config

        if self.model is None:
            return self.family or TRAINS[self.objective][1][0]
        family = str(read_config(origin).get("model_type"))
        check_family(self.objective, family)
        return family

    def _noise(self, tokenizer: Tokenizer) -> Noise | None:
        """What hides tokens; None for the causal objective."""
        from mojiang.train._corruption import RATES, Noise

        if self.objective == "causal":
            return None
        rate = RATES[self.objective] if self.mask_rate is None else self.mask_rate
        noise = Noise(self.objective, tokenizer, self.context, rate, self.whole_words)
        noise.check()
        return noise

    def _shards(self, run: Run, tokenizer: Tokenizer, noise: Noise | None) -> tuple[Shards, Shards | None]:
        """Token shards of the train and validation documents, made once per run and kept in its scratch."""
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
                texts = read_texts(read_documents(data, split, columns=["id", "text", "format"]))
                rate = self.fim_rate if split == "train" else 0.0
                sequences = noise.sequences(texts) if noise else document_sequences(
                    texts, tokenizer, seed=run.seed, fim_rate=rate, fim_characters=2 * self.context
                )  # fmt: skip
                made[split] = write_shards(sequences, folder, tokenizer.vocab_size)
        if "train" not in made or made["train"].num_text_bytes < MIN_BYTES:
            size = made["train"].num_text_bytes if "train" in made else 0
            raise BadInput(
                f"the corpus has {size:,} bytes to train on; at least {MIN_BYTES:,} are needed",
                hint=f"add {MIN_BYTES - size:,} bytes or more of text; a useful model takes a megabyte and up",
            )
        return made["train"], made.get("validation")

    def _layout(self, shards: Shards, noise: Noise | None, chosen: Any = None) -> Layout:
        """The rows of the shards, or of some of their sequences."""
        from mojiang.tokenizer._pack import PackedRows

        return noise.layout(shards, chosen) if noise else PackedRows(shards, self.context, chosen)

    def _sample(self, held_out: Shards | None, num_tokens: int, like: Layout, noise: Noise | None) -> Layout | None:
        """Rows of validation documents, drawn evenly, of about `num_tokens` tokens."""
        from mojiang.tokenizer._pack import PackedRows, sample_of

        if held_out is None or len(held_out) == 0:
            return None
        rows = self._layout(held_out, noise, sample_of(held_out, num_tokens))
        if isinstance(rows, PackedRows) and isinstance(like, PackedRows):  # one shape, one compiled graph
            rows.spans_per_row = like.spans_per_row = max(rows.spans_per_row, like.spans_per_row)
        return rows

    def _plan(self, run: Run, tokenizer: Tokenizer, num_tokens: int, batch_rows: int, family: str) -> Plan:
        """Shape, threads and size of the validation sample: chosen once, kept in the scratch folder."""
        from mojiang.core.engine import thread_count
        from mojiang.train import _plan as planning
        from mojiang.train._peak import fast_dtype

        path = run.scratch / "plan.json"
        if path.exists():
            return planning.Plan.load(path)
        dtype = fast_dtype(run.device, self.compute.precision)
        shape, threads, validation_tokens = planning.shape_for_corpus(num_tokens), thread_count(), 2**17
        minutes = self.length.minutes
        if minutes is not None:
            cost = planning.probe_speed(tokenizer.vocab_size, batch_rows, self.context, dtype, run.device)
            if not (self.depth and self.width):
                shape = planning.choose_shape(num_tokens, lambda s: 0.8 * 60 * minutes / cost(s))
            validation_tokens = int(VALIDATION_SHARE * 60 * minutes * 3 / cost(shape))
            if run.device == "cpu":
                config = shape.config(tokenizer.vocab_size, self.context, 0, 0)
                threads = planning.fastest_threads(threads, config, batch_rows, self.context, dtype)
        # Two stacks of half the layers cost about what the decoder does that was timed.
        layers = -(-shape.num_layers // 2) if family in SEQ2SEQ else shape.num_layers
        plan = planning.Plan(planning.Shape(self.width or shape.hidden_size, self.depth or layers), threads,
                             validation_tokens)  # fmt: skip
        plan.save(path)
        return plan

    def _model(self, run: Run, origin: Path, tokenizer: Tokenizer, plan: Plan, family: str) -> Network:
        from mojiang.train import _families
        from mojiang.train._parallel import loading_device
        from mojiang.train._supervised import set_dropout

        if self.model is not None:
            model = _families.load_for(self.objective, origin, tokenizer, self.context, run.log)
        else:
            size = tokenizer.vocab_size
            made = _families.new_model(family, self.objective, plan.shape, size, self.context, tokenizer)
            model = made.init_weights(run.seed)
        # Text is seen a few times only: ALBERT and T5 v1.1 gained by it. The config keeps its rates for fine-tuning.
        set_dropout(model, 0.0)
        return model.to(loading_device(self.compute.parallel, run.device))

    def _task(
        self, run: Run, model: Network, rows: Layout, validation: Layout | None, batch_rows: int, noise: Noise | None
    ) -> tuple[Objective, Source]:
        """What is trained for, on which batches."""
        from mojiang.train import _corruption, _pretraining
        from mojiang.train._batches import Shuffled

        if noise is None:
            packed: Any = rows
            return _pretraining.causal(model, validation), Shuffled(packed, batch_rows, run.seed)
        fixed = () if validation is None else _corruption.Fixed(noise, validation, batch_rows)
        return _pretraining.objective(noise, fixed), _corruption.source(noise, rows, batch_rows, run.seed)

    def _keep_discriminator(self, run: Run, training: Training) -> None:
        """Write ELECTRA's generator beside the model, which is the discriminator alone."""
        from mojiang.model.load import save_model

        both: Any = training.model
        save_model(both.generator, None, run.out / "generator")
        training.model = both.discriminator

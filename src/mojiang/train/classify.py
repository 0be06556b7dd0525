"""Text classification: fine-tune a pre-trained network, or train a TextCNN, LSTM or GRU from scratch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch, check_one_start, rate_from_scratch

if TYPE_CHECKING:
    from pathlib import Path

    from mojiang.model.network import Network
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._batches import Examples


class Classify(Recipe):
    """Train a classifier of texts, or of pairs of texts, on labelled examples.

    With `model`, a pre-trained network (BERT family, or a decoder) gets a new head and all of it is trained. Without,
    `architecture` names a small network that is trained from scratch on a `tokenizer`'s ids.

    When not to use: with a few hundred examples and no pre-trained model of the language, where counting words and a
    linear classifier do as well.
    Source: Devlin et al. 2019 (fine-tuning); Kim 2014 (TextCNN); Hochreiter & Schmidhuber 1997; Cho et al. 2014.
    Example:
        >>> Classify(data="reviews", tokenizer="bpe", architecture="textcnn", epochs=5).batch_size
        32
    """

    recipe: ClassVar[str] = "train.classify"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Labelled texts, with their splits."""
    model: ModelRef | None = None
    """The pre-trained network to fine-tune."""
    tokenizer: TokenizerRef | None = None
    """The tokenizer of a network from scratch."""
    architecture: Literal["textcnn", "lstm", "gru"] | None = None
    """A network to train from scratch (lstm and gru read in both directions)."""
    width: int = Field(128, ge=8, le=4096)
    """Size of embeddings, filters and states of a network from scratch."""
    context: int = Field(256, ge=8)
    """Longest text in tokens; longer ones lose their end, and are counted."""
    batch_size: int = Field(32, ge=1)
    """Texts of an optimizer step."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the network; left out: as its config says."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label's weight that is spread over all."""
    length: Length = Length(epochs=3)
    """How long."""
    optim: Optim = Optim(learning_rate=1e-4, weight_decay=0.01, beta2=0.999, warmup_steps=50, schedule="linear")
    """How a gradient becomes a step; from scratch at 1e-3 unless said otherwise."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=3, keep_best=True)
    """What is looked at on the way."""

    @model_validator(mode="before")
    @classmethod
    def _faster_from_scratch(cls, values: Any) -> Any:
        return rate_from_scratch(values, 1e-3)

    @model_validator(mode="after")
    def _one_start(self) -> Classify:
        check_one_start(self.model, self.tokenizer, self.architecture)
        return self

    def run(self, run: Run) -> Metrics:
        """Encode, train, measure the test split, save."""
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._batches import Drawn
        from mojiang.train._classification import Classification, text_scores
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        origin = run.input("model" if self.model else "tokenizer").path
        tokenizer = load_tokenizer(origin)
        splits, labels = self._splits(run, tokenizer)
        model = self._model(run, origin, tokenizer, labels)
        pad_id = tokenizer.special_id("pad") or 0
        train_split, held_out = splits["train"], splits.get("validation")
        objective = Classification(
            lambda network, batch: text_scores(network, batch, pad_id), len(labels), held_out, self.label_smoothing
        )
        batch_size = min(self.batch_size, len(train_split))
        source = Drawn(len(train_split), batch_size, run.seed, lambda rows, _: train_split.take(rows))
        job = Job(
            model, objective, source, batch_size, self.length, self.optim, self.compute,
            self.watch.when(held_out is not None), context=self.context, row_cost=int(train_split.lengths.mean()),
            started=started,
        )  # fmt: skip
        training, result = train(run, job)
        metrics = outcome(training, result, job) | {"labels": len(labels), "examples": len(train_split)}
        if "test" in splits:
            training.model.eval()
            found = objective.measure(training.model, splits["test"], training.settings.at_once)
            metrics |= {f"test_{name}": round(value, 5) for name, value in found.items()}
        save(training, origin, run)
        return metrics

    def _splits(self, run: Run, tokenizer: Tokenizer) -> tuple[dict[str, Examples], list[str]]:
        """The encoded splits that there are, and the labels."""
        from mojiang.train._classification import encode_texts, labels_of
        from mojiang.train._supervised import read_splits

        rows = read_splits(run, "labelled")
        labels = labels_of(rows["train"])
        splits = {}
        for split, some in rows.items():
            splits[split], cut = encode_texts(some, labels, tokenizer, self.context)
            if cut:
                run.log(f"{cut} of {len(some)} {split} texts are longer than {self.context} tokens and lose their end")
        return splits, labels

    def _model(self, run: Run, origin: Path, tokenizer: Tokenizer, labels: list[str]) -> Network:
        from dataclasses import replace

        from mojiang.model.load import load_model
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._supervised import set_dropout

        if self.model is not None:
            model = load_model(origin, device=run.device, head="sequence_classification", num_labels=len(labels))
            check_vocabulary(tokenizer, model.config)
        else:
            model = self._from_scratch(tokenizer, len(labels)).init_weights(run.seed).to(run.device)
        model.config = replace(model.config, id2label=dict(enumerate(labels)))
        set_dropout(model, self.dropout)
        return model

    def _from_scratch(self, tokenizer: Tokenizer, num_labels: int) -> Network:
        from mojiang.model.rnn import RNN, RNNConfig
        from mojiang.model.textcnn import TextCNN, TextCNNConfig

        size = tokenizer.vocab_size
        if self.architecture == "textcnn":
            return TextCNN(TextCNNConfig(size, self.width, num_filters=self.width, num_labels=num_labels))
        cell: Literal["lstm", "gru"] = "gru" if self.architecture == "gru" else "lstm"
        return RNN(RNNConfig(size, self.width, self.width, cell=cell, num_labels=num_labels))

"""Tagging words: fine-tune a pre-trained network, or train a BiLSTM-CRF from scratch."""

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


class Tagging(Recipe):
    """Train a tagger of words: names in a text, parts of speech, word borders.

    With `model`, a pre-trained network gets a new head, and each word is judged at its first token. Without, a
    BiLSTM-CRF is trained from scratch on a `tokenizer`'s ids; it finds the best tags of a whole row by Viterbi, among
    those that the tags' own scheme (BIO, BIOES, BMES) allows. Entities are counted as conlleval does.

    When not to use: to find passages that answer a question (`span`), or with a few hundred rows and no pre-trained
    model of the language.
    Source: Devlin et al. 2019 (fine-tuning); Huang et al. 2015 and Lample et al. 2016 (BiLSTM-CRF).
    Example:
        >>> Tagging(data="names", tokenizer="wordpiece", architecture="bilstm_crf", epochs=10).width
        128
    """

    recipe: ClassVar[str] = "train.tagging"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Tagged rows (words and a tag for each), with their splits."""
    model: ModelRef | None = None
    """The pre-trained network to fine-tune."""
    tokenizer: TokenizerRef | None = None
    """The tokenizer of a network from scratch."""
    architecture: Literal["bilstm_crf"] | None = None
    """A network to train from scratch."""
    width: int = Field(128, ge=8, le=4096)
    """Size of embeddings and of the states of each direction, from scratch."""
    context: int = Field(256, ge=8)
    """Longest row in tokens; longer ones lose words at their end, and are counted."""
    batch_size: int = Field(32, ge=1)
    """Rows of an optimizer step."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the network; left out: as its config says."""
    length: Length = Length(epochs=3)
    """How long."""
    optim: Optim = Optim(learning_rate=5e-5, weight_decay=0.01, beta2=0.999, warmup_steps=50, schedule="linear")
    """How a gradient becomes a step; from scratch at 2.5e-3 unless said otherwise."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=3, keep_best=True)
    """What is looked at on the way."""

    @model_validator(mode="before")
    @classmethod
    def _faster_from_scratch(cls, values: Any) -> Any:
        return rate_from_scratch(values, 2.5e-3)

    @model_validator(mode="after")
    def _one_start(self) -> Tagging:
        check_one_start(self.model, self.tokenizer, self.architecture)
        return self

    def run(self, run: Run) -> Metrics:
        """Encode, train, measure the test split, save."""
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._supervised import fitting, read_splits, say_cut, train_on
        from mojiang.train._tagging import WordLabels, encode_tagged, scheme_of, tags_of

        started = time.monotonic()
        origin = run.input("model" if self.model else "tokenizer").path
        tokenizer = load_tokenizer(origin)
        rows = read_splits(run, "tagged")
        labels = tags_of(rows["train"])
        model = self._model(run, origin, tokenizer, labels, scheme_of(labels, rows["train"]))
        context = fitting(model, self.context)
        encoded = {split: encode_tagged(some, labels, tokenizer, context) for split, some in rows.items()}
        say_cut(run, encoded, rows, f"rows are longer than {context} tokens and lose words at their end")
        splits = {split: examples for split, (examples, _) in encoded.items()}
        objective = WordLabels(labels, tokenizer.special_id("pad") or 0, splits.get("validation"))
        metrics = train_on(run, self, model, objective, splits, origin, started)
        return metrics | {"labels": len(labels)}

    def _model(self, run: Run, origin: Path, tokenizer: Tokenizer, labels: list[str], scheme: str | None) -> Network:
        from dataclasses import replace

        from mojiang.model.bilstm_crf import BiLSTMCRF, BiLSTMCRFConfig
        from mojiang.model.load import load_model
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._supervised import set_dropout

        names = dict(enumerate(labels))
        model: Network
        if self.model is None:
            size = tokenizer.vocab_size
            config = BiLSTMCRFConfig(
                size, self.width, self.width, scheme=scheme, num_labels=len(labels), id2label=names
            )
            model = BiLSTMCRF(config).init_weights(run.seed).to(run.device)
        else:
            model = load_model(origin, device=run.device, head="token_classification", num_labels=len(labels))
            check_vocabulary(tokenizer, model.config)
            model.config = replace(model.config, id2label=names)
        set_dropout(model, self.dropout)
        return model

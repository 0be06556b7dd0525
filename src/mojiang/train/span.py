"""Extractive question answering: find the stretch of a text that answers a question."""

from __future__ import annotations

import time
from typing import ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch


class Span(Recipe):
    """Train a pre-trained network to find answers in texts.

    Long texts are cut into windows that overlap; a window without the answer, and a question without one, is answered
    by the window's first token. Measured are exact match and F1 of words as SQuAD does, in Chinese by characters. The
    trained model gives no answer only if some training question has none.

    When not to use: when answers have to be put into words, or gathered from several places; train a model to write
    them (`sft`, `seq2seq`).
    Source: Rajpurkar et al. 2016 and 2018 (SQuAD); Devlin et al. 2019, sections 4.2 and 4.3.
    Example:
        >>> Span(model="bert", data="questions", epochs=2).stride
        128
    """

    recipe: ClassVar[str] = "train.span"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The pre-trained network to fine-tune."""
    data: DatasetRef
    """Questions, texts and answers (SQuAD), with their splits."""
    context: int = Field(384, ge=8)
    """Longest window (question, part of the text, special tokens), in tokens."""
    stride: int = Field(128, ge=0)
    """Tokens that a window shares with the one before."""
    question_tokens: int = Field(64, ge=4)
    """Longest question; longer ones lose their end, and are counted."""
    answer_tokens: int = Field(30, ge=1)
    """Longest answer that is given."""
    batch_size: int = Field(16, ge=1)
    """Windows of an optimizer step."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the network; left out: as its config says."""
    length: Length = Length(epochs=2)
    """How long."""
    optim: Optim = Optim(learning_rate=3e-5, weight_decay=0.01, beta2=0.999, warmup_steps=50, schedule="linear")
    """How a gradient becomes a step."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=2, keep_best=True)
    """What is looked at on the way."""

    def run(self, run: Run) -> Metrics:
        """Cut into windows, train, measure the test split, save."""
        from mojiang.model.load import load_model
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._spans import Extraction, Windows, encode_spans
        from mojiang.train._supervised import fitting, read_splits, say_cut, set_dropout, train_on

        started = time.monotonic()
        folder = run.input("model").path
        model = load_model(folder, device=run.device, head="question_answering")
        tokenizer = load_tokenizer(folder)
        check_vocabulary(tokenizer, model.config)
        set_dropout(model, self.dropout)
        rows = read_splits(run, "spans")
        windows = Windows(fitting(model, self.context), self.stride, self.question_tokens)
        encoded = {split: encode_spans(some, tokenizer, windows) for split, some in rows.items()}
        say_cut(run, encoded, rows, f"questions are longer than {self.question_tokens} tokens and lose their end")
        splits = {split: examples for split, (examples, _) in encoded.items()}
        unanswerable = any(not row["answers"] for row in rows["train"])
        objective = Extraction(
            tokenizer.special_id("pad") or 0, self.answer_tokens, unanswerable, splits.get("validation")
        )
        metrics = train_on(run, self, model, objective, splits, folder, started)
        return metrics | {"questions": len(rows["train"]), "windows": len(splits["train"])}

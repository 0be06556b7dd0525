"""Sentence embeddings: texts that belong together get vectors that are close."""

from __future__ import annotations

import time
from typing import ClassVar, Literal

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch


class Contrastive(Recipe):
    """Train an encoder or a decoder to embed texts, from pairs that belong together (question and answer, say).

    Each text must find its partner among all of the batch, so larger batches are harder and better; GradCache keeps
    them from costing memory: `batch_size` may be thousands. The output is a model folder without a head that
    sentence-transformers reads, too.

    When not to use: where many sources share one target, which would then be its own negative; train a classifier.
    Source: van den Oord et al. 2018 (InfoNCE); Reimers & Gurevych 2019 (Sentence-BERT); Gao et al. 2021 (GradCache).
    Example:
        >>> Contrastive(model="bert", data="questions", batch_size=1024).pooling
        'mean'
    """

    recipe: ClassVar[str] = "train.contrastive"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    model: ModelRef
    """The pre-trained network to start from."""
    data: DatasetRef
    """Pairs of source and target that belong together, with their splits."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """What a text's vector is: the mean of its tokens' states, the first one (encoders) or the last (decoders)."""
    temperature: float = Field(0.05, gt=0)
    """Cosines are divided by it; lower looks harder at the closest negatives."""
    symmetric: bool = True
    """Let targets find their sources, too."""
    context: int = Field(128, ge=8)
    """Longest text in tokens; longer ones lose their end, and are counted."""
    batch_size: int = Field(64, ge=2)
    """Pairs of an optimizer step: each has the others as negatives."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the network; left out: as its config says."""
    length: Length = Length(epochs=1)
    """How long."""
    optim: Optim = Optim(learning_rate=2e-5, weight_decay=0.01, beta2=0.999, warmup_steps=50, schedule="linear")
    """How a gradient becomes a step."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=2, keep_best=True)
    """What is looked at on the way."""

    def run(self, run: Run) -> Metrics:
        """Encode, train, measure the test split, save."""
        import numpy as np
        import torch

        from mojiang.model.load import load_model
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._batches import Drawn, Examples
        from mojiang.train._contrastive import Contrast, embed, encode_texts, save_pooling, without_pooler
        from mojiang.train._session import MICRO_TOKENS
        from mojiang.train._supervised import fitting, read_splits, say_cut, set_dropout, train_on

        started = time.monotonic()
        folder = run.input("model").path
        tokenizer = load_tokenizer(folder)
        model = without_pooler(load_model(folder, device=run.device, head="embedding"))
        check_vocabulary(tokenizer, model.config)
        set_dropout(model, self.dropout)
        rows, context = read_splits(run, "pairs"), fitting(model, self.context)
        encoded = {split: encode_texts(some, tokenizer, context) for split, some in rows.items()}
        say_cut(run, encoded, rows, f"pairs have a text longer than {context} tokens, which loses its end")
        splits = {split: examples for split, (examples, _) in encoded.items()}
        train, batch_size = splits["train"], min(self.batch_size, len(splits["train"]))
        if batch_size < 2:
            raise BadInput(f"there are {batch_size} pairs to train on", hint="each has to be told apart from others")

        def drawn(numbers: list[int], step: int) -> Examples:
            first = (run.seed * 1_000_003 + step) * 65_537 % 2**62  # keys are 64 bits, a seed may be anything
            keys = first + np.arange(len(numbers), dtype=np.int64)
            return train.take(numbers).replace(key=keys)

        micro = self.compute.micro or MICRO_TOKENS
        objective = Contrast(self.pooling, self.temperature, self.symmetric, micro, splits.get("validation"))
        source = Drawn(len(train), batch_size, run.seed, drawn)
        with torch.no_grad():
            size = embed(model, train["anchor"][:1], self.pooling).shape[1]
        metrics = train_on(run, self, model, objective, splits, folder, started, source)
        save_pooling(run.out, self.pooling, size, context)
        return metrics | {"embedding_size": size}

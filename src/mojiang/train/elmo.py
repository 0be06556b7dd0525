"""ELMo: vectors of words in their sentence, from two language models that read it ahead and back."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.files import atomic_write
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.text._analysis import Analysis, analyzer_of
from mojiang.train._settings import Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from mojiang.model.elmo import ELMo as Network

FILTERS = ((1, 4), (2, 4), (3, 2), (4, 1), (5, 1), (6, 1), (7, 1))
"""Width in bytes, and the width of the model over the number of filters: a Chinese character has three bytes."""


class ELMo(Recipe):
    """Train a bidirectional language model of words, whose layers are vectors of words in their sentence.

    Unlike word2vec's, the vectors of a word differ with what it means where it stands. Words are read by their bytes,
    so that any word has vectors; predicted are the most frequent ones, from both sides. English and Chinese: give a
    segmenter, or take jieba's words or characters. `ELMo.vectors` of the saved network gives the layers, `ScalarMix`
    weighs them for a task.

    When not to use: where a pre-trained encoder of the language is at hand (`train.tagging`, `train.classify`).
    Source: Peters et al. 2018; Kim et al. 2016 (words from characters); Sak et al. 2014 (projected LSTM).
    Example:
        >>> ELMo(data="corpus", minutes=30).analysis.marks
        True
    """

    recipe: ClassVar[str] = "train.elmo"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Documents, or examples with text or words, with their splits."""
    segmenter: ModelRef | None = None
    """A segmenter made by text.segment, for Chinese."""
    analysis: Analysis = Analysis(lowercase=False, marks=True)
    """What becomes of the words."""
    min_count: int = Field(2, ge=1)
    """Rarer words are read, but predicted as one unknown word."""
    max_words: int = Field(20_000, ge=1)
    """Most words that are predicted, the most frequent ones."""
    width: int = Field(128, ge=8, le=4096, multiple_of=4)
    """Size of a direction's states and of the words' vectors."""
    cells: int = Field(512, ge=9, le=32768)
    """Size of the LSTMs' memory, which is projected on the width; larger than it."""
    depth: int = Field(2, ge=1, le=8)
    """LSTM layers in each direction."""
    context: int = Field(128, ge=8)
    """Longest sentence in words; a longer one becomes several, and is counted."""
    batch_size: int = Field(64, ge=1)
    """Sentences of an optimizer step."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of the words' vectors and of every layer."""
    length: Length = Length(epochs=5)
    """How long."""
    optim: Optim = Optim(learning_rate=2e-3, beta2=0.999, warmup_steps=100, schedule="linear")
    """How a gradient becomes a step."""
    compute: Compute = Compute(compile="off", micro=2048)
    """How the work is done; sentences of like length go through together, so that few steps are spent on padding."""
    watch: Watch = Watch(validations=5, keep_best=True)
    """What is looked at on the way."""

    @model_validator(mode="after")
    def _cells_are_projected(self) -> ELMo:
        if self.cells <= self.width:
            raise ValueError(f"cells is {self.cells}, width {self.width}; memory must be larger than its projection")
        return self

    def run(self, run: Run) -> Metrics:
        """Read, train, measure the test split, save."""
        from mojiang.train._bilm import BiLM, read_sentences
        from mojiang.train._supervised import train_on

        started = time.monotonic()
        analyzer = analyzer_of(run, self.analysis)
        sentences = read_sentences(
            run, analyzer, run.input("data").path, self.min_count, self.max_words, self.context
        )  # fmt: skip
        if sentences.cut:
            run.warn(f"{sentences.cut} sentences are longer than {self.context} words and became several")
        splits = {split: sentences.examples(split) for split, rows in sentences.splits.items() if rows}
        objective = BiLM.over(sentences, splits.get("validation"))
        metrics = train_on(run, self, self._model(run, objective.vocab_size), objective, splits, None, started)
        vocabulary = json.dumps(sentences.vocabulary, ensure_ascii=False, indent=0)
        atomic_write(run.out / "vocabulary.json", vocabulary + "\n")
        unknown = {f"{split}_unknown": round(sentences.unknown_share(split), 5) for split in splits}
        return metrics | unknown | {"vocabulary": objective.vocab_size, "words": len(sentences.words)}

    def _model(self, run: Run, vocab_size: int) -> Network:
        from mojiang.model.elmo import ELMo as Network
        from mojiang.model.elmo import ELMoConfig

        filters = tuple((width, self.width // share) for width, share in FILTERS)
        config = ELMoConfig(
            vocab_size, self.width, self.cells, self.depth, filters=filters, dropout=self.dropout
        )  # fmt: skip
        return Network(config).init_weights(run.seed).to(run.device)

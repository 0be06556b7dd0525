"""Word vectors by skip-gram or CBOW with negative sampling, with or without fastText's subwords."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.config import Config
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.text._analysis import Analysis, analyzer_of

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.text._corpus import Corpus
    from mojiang.text._vectors import WordVectors
    from mojiang.text._word2vec import Bags, Tables

_SAID: Final = 50  # steps between measurements of the loss
_ROOM: Final = 16  # times that the most frequent word may be moved by one update; many more, and the vectors run away


class Grams(Config):
    """fastText's n-grams of characters."""

    shortest_gram: int = Field(3, ge=1, le=10)
    """Shortest n-gram of a word between < and >."""
    longest_gram: int = Field(0, ge=0, le=20)
    """Longest; 0 for word2vec, without subwords. fastText has 6; Chinese words want 1 to 2."""
    gram_buckets: int = Field(200_000, ge=1)
    """Rows that all n-grams share, by hash."""


class Word2Vec(Recipe):
    """Learn a vector for each word from the words around it.

    Skip-gram predicts a word's neighbours from it, CBOW a word from the mean of its neighbours; noise words are told
    apart from them. With subwords, a word is the mean of its own vector and its n-grams', so words that the corpus has
    not get a vector too. The vectors are also written as text, for other tools.

    When not to use: to compare sentences or to tell a word's senses apart (`train.contrastive`, a BERT).
    Source: Mikolov et al. 2013; Bojanowski et al. 2017 (subwords); Ji et al. 2016 (shared negatives).
    Example:
        >>> Word2Vec(data="corpus", longest_gram=6).grams.shortest_gram
        3
    """

    recipe: ClassVar[str] = "text.word2vec"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """The corpus: documents, or examples with text; of splits the training split."""
    segmenter: ModelRef | None = None
    """A segmenter made by text.segment, for Chinese."""
    analysis: Analysis = Analysis()
    """What becomes of the words."""
    method: Literal["skipgram", "cbow"] = "skipgram"
    """Skip-gram is better for rare words, CBOW several times as fast."""
    grams: Grams = Grams()
    """Subwords."""
    size: int = Field(100, ge=2, le=4096)
    """Numbers of a vector."""
    window: int = Field(5, ge=1, le=100)
    """Most words to either side; each word draws its own window up to it."""
    min_count: int = Field(5, ge=1)
    """Words that occur less often have no vector."""
    max_words: int | None = Field(None, ge=2)
    """Keep the most frequent words only."""
    epochs: int = Field(5, ge=1)
    """Passes over the corpus."""
    negatives: int = Field(5, ge=1, le=100)
    """Noise words for each pair."""
    pool: int = Field(64, ge=1)
    """Noise words drawn for a batch, which all its pairs share."""
    batch: int = Field(1024, ge=1)
    """Most pairs of an update (of CBOW: words); fewer where one word is so frequent that it would be in too many."""
    rate: float = Field(0.025, gt=0)
    """Step size at the beginning; it falls to none."""
    subsample: float = Field(1e-3, ge=0)
    """Share of the corpus above which a word is passed over at times; 0 for never."""

    @model_validator(mode="after")
    def _grams_in_order(self) -> Word2Vec:
        if 0 < self.grams.longest_gram < self.grams.shortest_gram:
            raise ValueError(f"shortest_gram is {self.grams.shortest_gram}, longest_gram {self.grams.longest_gram}")
        return self

    def run(self, run: Run) -> Metrics:
        """Count, train, save."""
        import torch

        from mojiang.core.engine import thread_count
        from mojiang.text._corpus import read_corpus

        torch.set_num_threads(thread_count())
        analyzer = analyzer_of(run, self.analysis)
        corpus = read_corpus(run, analyzer, run.input("data").path, self.min_count, self.max_words)
        started = time.monotonic()
        vectors, loss = self._train(run, corpus)
        seconds = time.monotonic() - started
        vectors.save(run.out, method=self.method, lowercase=self.analysis.lowercase, form=self.analysis.form)
        vectors.save_text(run.out / "vectors.txt")
        tokens = int(corpus.counts.sum())
        return {
            "words": len(corpus.words), "tokens": tokens, "loss": round(loss, 5), "seconds": round(seconds, 1),
            "words_per_second": round(self.epochs * tokens / seconds),
        }  # fmt: skip

    def _train(self, run: Run, corpus: Corpus) -> tuple[WordVectors, float]:
        import numpy as np
        import torch

        from mojiang.text._word2vec import Sampling, Tables, bags_of

        grams, words = self.grams, len(corpus.words)
        bags, rows = None, words
        if grams.longest_gram:
            bags = bags_of(corpus.words, words, grams.shortest_gram, grams.longest_gram, grams.gram_buckets)
            rows += grams.gram_buckets
        tables = Tables.begin(rows, words, self.size, torch.Generator().manual_seed(run.seed))
        drawn = Sampling(
            self.method == "skipgram", self.window, self.subsample, self.negatives, self.pool, self._batch(corpus),
            run.seed, bags,
        )  # fmt: skip
        total, done, step, losses = self.epochs * len(corpus.ids), 0, 0, list[float]()
        for epoch in range(self.epochs):
            losses = []
            for number, part in enumerate(corpus.chunks()):
                random = np.random.default_rng([run.seed, epoch, number])
                rate = self.rate * max(1 - done / total, 1e-4)
                made = drawn.batches(drawn.kept(part, corpus, random), random)
                for batch, negatives in zip(made, drawn.negatives_of(corpus, random), strict=False):
                    loss = tables.step(batch, negatives, self.negatives / self.pool, rate, step % _SAID == 0)
                    step += 1
                    if loss is not None:
                        losses.append(loss)
                        run.check_stop()
                done += len(part)
                run.progress(done, total, unit="words", loss=round(losses[-1], 4) if losses else 0.0)
            if losses:
                run.metrics(epoch + 1, loss=sum(losses) / len(losses))
        return self._vectors(corpus, tables, bags), sum(losses) / max(len(losses), 1)

    def _batch(self, corpus: Corpus) -> int:
        """The size of an update for this corpus."""
        from mojiang.text._word2vec import kept_share

        kept = corpus.counts * kept_share(corpus.counts, self.subsample)
        places = 1 if self.method == "skipgram" else self.window + 1
        return max(1, min(self.batch, int(_ROOM * kept.sum() / (kept.max() * places))))

    def _vectors(self, corpus: Corpus, tables: Tables, bags: Bags | None) -> WordVectors:
        """What is kept: the inputs, of subwords their means."""
        import numpy as np

        from mojiang.text._vectors import Subwords, WordVectors

        inputs_RD = tables.inputs_RD.numpy()
        words = len(corpus.words)
        if bags is None:
            return WordVectors(corpus.words, inputs_RD)
        means_VD = np.empty((words, self.size), np.float32)
        for at in range(0, words, 4096):
            part = np.arange(at, min(at + 4096, words), dtype=np.int32)
            rows, owner = bags.of(part)
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            sums = np.add.reduceat(inputs_RD[rows], starts, axis=0)
            means_VD[part] = sums / np.bincount(owner)[:, None]
        grams = Subwords(self.grams.shortest_gram, self.grams.longest_gram, inputs_RD[words:])
        return WordVectors(corpus.words, means_VD, grams)

"""Word vectors by GloVe: from counts of which words occur together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.text._analysis import Analysis, analyzer_of

if TYPE_CHECKING:
    import numpy as np

    from mojiang.core.run import Run
    from mojiang.text._corpus import Corpus


class Glove(Recipe):
    """Learn a vector for each word from how often words occur near each other, in the whole corpus at once.

    A pair counts 1 / distance. The vectors are also written as text, for other tools.

    When not to use: on a few million words or less, where `word2vec` does better.
    Source: Pennington, Socher & Manning 2014.
    Example:
        >>> Glove(data="corpus", size=50).window
        10
    """

    recipe: ClassVar[str] = "text.glove"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """The corpus: documents, or examples with text; of splits the training split."""
    segmenter: ModelRef | None = None
    """A segmenter made by text.segment, for Chinese."""
    analysis: Analysis = Analysis()
    """What becomes of the words."""
    size: int = Field(100, ge=2, le=4096)
    """Numbers of a vector."""
    window: int = Field(10, ge=1, le=100)
    """Words to either side."""
    min_count: int = Field(5, ge=1)
    """Words that occur less often have no vector."""
    max_words: int | None = Field(50_000, ge=2)
    """Keep the most frequent words only: the counts are of pairs of them."""
    epochs: int = Field(15, ge=1)
    """Passes over the counts."""
    rate: float = Field(0.05, gt=0)
    """Step size of AdaGrad."""
    ceiling: float = Field(100, gt=0)
    """A count from which on a pair has its full weight (x_max)."""
    power: float = Field(0.75, gt=0)
    """How weights grow up to it (alpha)."""
    batch: int = Field(4096, ge=1)
    """Entries of an update."""

    def run(self, run: Run) -> Metrics:
        """Count, train, save."""
        import torch

        from mojiang.core.engine import thread_count
        from mojiang.text._corpus import read_corpus
        from mojiang.text._vectors import WordVectors

        torch.set_num_threads(thread_count())
        analyzer = analyzer_of(run, self.analysis)
        corpus = read_corpus(run, analyzer, run.input("data").path, self.min_count, self.max_words)
        started = time.monotonic()
        table, entries, loss = self._train(run, corpus)
        vectors = WordVectors(corpus.words, table)
        vectors.save(run.out, method="glove", lowercase=self.analysis.lowercase, form=self.analysis.form)
        vectors.save_text(run.out / "vectors.txt", header=False)
        return {
            "words": len(corpus.words), "tokens": int(corpus.counts.sum()), "entries": entries, "loss": round(loss, 6),
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip

    def _train(self, run: Run, corpus: Corpus) -> tuple[np.ndarray[Any, Any], int, float]:
        import numpy as np
        import torch

        from mojiang.text._glove import Tables, co_occurrences

        keys, counts = co_occurrences(corpus, self.window, run.check_stop)
        one, other = torch.from_numpy(keys // len(corpus.words)), torch.from_numpy(keys % len(corpus.words))
        log = torch.from_numpy(np.log(counts).astype(np.float32))
        weight = torch.from_numpy(np.minimum(1, (counts / self.ceiling) ** self.power).astype(np.float32))
        tables = Tables(len(corpus.words), self.size, torch.Generator().manual_seed(run.seed))
        mean = 0.0
        for epoch in range(self.epochs):
            order = torch.from_numpy(np.random.default_rng([run.seed, epoch]).permutation(len(keys)))
            loss = 0.0
            for at in range(0, len(keys), self.batch):
                rows = order[at : at + self.batch]
                loss += tables.step(one[rows], other[rows], log[rows], weight[rows], self.rate)
                run.progress(epoch * len(keys) + at, self.epochs * len(keys), unit="entries")
                run.check_stop()
            mean = loss / max(len(keys), 1)
            run.metrics(epoch + 1, loss=mean)
        return tables.vectors(), len(keys), mean

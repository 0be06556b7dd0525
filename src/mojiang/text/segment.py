"""Train a Chinese word segmenter and tagger on segmented text, and measure it beside a peer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Cell, Report, Table

if TYPE_CHECKING:
    import numpy as np

    from mojiang.core.run import Run
    from mojiang.text._segmenter import Segmenter, Tagger

Rows = list[dict[str, Any]]


class Segment(Recipe):
    """Train a segmenter of Chinese: one CRF labels characters (begin, middle, end, single), one labels words.

    Features of characters are their neighbourhood and its kinds; those of words are their neighbours, first and last
    characters. (A lexicon of the training words as a feature gained nothing on People's Daily and lost words it had not
    seen.) The best of the epochs by the validation split is kept; the test split is measured once.

    When not to use: for language models, whose tokenizers need no words; or for names (`train.tagging`).
    Source: Xue 2003; Peng, Feng & McCallum 2004; Zhao et al. 2006; Duchi et al. 2011 (AdaGrad).
    Example:
        >>> Segment(data="people-daily", epochs=3).pos
        True
    """

    recipe: ClassVar[str] = "text.segment"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Segmented sentences: tagged rows whose tokens are words (`mojiang data fetch --dataset people-daily`)."""
    pos: bool = True
    """Also learn the tags, as parts of speech of words."""
    epochs: int = Field(3, ge=1)
    """Passes over the training split."""
    min_count: int = Field(2, ge=1)
    """Features that occur less often are left out."""
    rate: float = Field(0.2, gt=0)
    """Step size of AdaGrad."""
    l2: float = Field(1e-6, ge=0)
    """Strength of the penalty on weights, for each position."""
    batch: int = Field(8000, ge=1)
    """Positions of an update."""
    peers: tuple[Literal["jieba"], ...] = ()
    """Measured on the same test sentences (jieba: extra `jieba`; it follows another standard of what a word is)."""

    def run(self, run: Run) -> Metrics:
        """Train, measure, save."""
        from mojiang.data.examples import has_split, read_examples
        from mojiang.text._training import train_characters, train_words

        data = run.input("data").path
        started = time.monotonic()
        rows = {"train": list(read_examples(data, "train", "tagged"))}
        for split in ("validation", "test"):
            rows[split] = list(read_examples(data, split, "tagged")) if has_split(data, split, "tagged") else []
        _check(rows["train"])
        segmenter = train_characters(run, self, rows["train"], rows["validation"])
        if self.pos:
            segmenter = train_words(run, self, segmenter, rows["train"], rows["validation"])
        segmenter.save(run.out)
        metrics: Metrics = {
            "sentences": len(rows["train"]), "features": _features(segmenter.characters),
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        if rows["test"]:
            metrics |= self._measure(run, segmenter, rows["train"], rows["test"])
        return metrics

    def _measure(self, run: Run, segmenter: Segmenter, train: Rows, test: Rows) -> Metrics:
        from mojiang.text._scoring import Score, score_words
        from mojiang.text._training import tag_accuracy

        gold = [row["tokens"] for row in test]
        known = {word for row in train for word in row["tokens"]}
        texts = ["".join(words) for words in gold]
        scores: dict[str, Score] = {"this segmenter": score_words(gold, found := segmenter.cut_all(texts), known)}
        if "jieba" in self.peers:
            from mojiang.text._chinese import jieba_cutter

            scores["jieba"] = score_words(gold, [list(jieba_cutter()(text)) for text in texts], known)
        metrics: Metrics = {f"test_{name}": round(value, 5) for name, value in scores["this segmenter"].scalars()}
        metrics |= {f"{peer}_f1": round(score.f1, 5) for peer, score in scores.items() if peer in self.peers}
        tables = [_words_table(scores)]
        if self.pos:
            figures, table = tag_accuracy(segmenter, test, found, known)
            metrics |= {f"test_{name}": round(value, 5) for name, value in figures.items()}
            tables.append(table)
        scalars = {name: float(value) for name, value in metrics.items()}
        verdict = f"F1 {scores['this segmenter'].f1:.3f} on {len(test):,} held-out sentences"
        Report(title="Segmentation of held-out sentences", scalars=scalars, tables=tables, verdict=verdict).save(
            run.out
        )
        return metrics


def _features(tagger: Tagger) -> int:
    return len(tagger.vocabulary)


def _check(rows: Sequence[dict[str, Any]]) -> None:
    longest = Counter(len(word) for row in rows for word in row["tokens"])
    if set(longest) <= {1}:
        raise BadInput(
            "every token has one character, so there are no words to learn",
            hint="give words, such as data.fetch --dataset people-daily makes them",
        )


def _words_table(scores: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for name, score in scores.items():
        low, high = score.interval()
        rows.append(
            [name, score.precision, score.recall, score.f1, low, high, score.known_recall, score.unknown_recall]
        )
    columns = ["by", "precision", "recall", "F1", "95 % low", "95 % high", "recall of known words", "of unknown words"]
    return Table(title="Words of the test split", columns=columns, rows=rows)


def as_labels(tags: Sequence[str], labels: Sequence[str]) -> np.ndarray[Any, Any]:
    """Numbers of the tags; a tag that training has not is -1."""
    import numpy as np

    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers.get(tag, -1) for tag in tags], np.int64)

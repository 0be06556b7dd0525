"""What word vectors know: neighbours, analogies, agreement with people, and a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from mojiang.core.artifact import Kind
from mojiang.core.files import sha256_file
from mojiang.core.recipe import Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Report, Table

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.text._vectors import WordVectors


class Probe(Recipe):
    """Look into word vectors: nearest words, analogies, similarity beside people's judgements, a plot of words.

    When not to use: to decide between models for a task; the task's own test split decides that.
    Source: Mikolov et al. 2013 (analogies); Finkelstein et al. 2002 and Hill et al. 2015 (similarity); van der Maaten &
    Hinton 2008 and McInnes et al. 2018 (the plot).
    Example:
        >>> Probe(model="vectors", words=("king", "river")).neighbours
        10
    """

    recipe: ClassVar[str] = "text.probe"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "report"

    model: ModelRef
    """Word vectors: made by word2vec, glove or load."""
    words: tuple[str, ...] = ()
    """Words whose neighbours are shown; by default some frequent ones."""
    neighbours: int = Field(10, ge=1, le=1000)
    """How many of each."""
    analogies: tuple[str, ...] = ()
    """Three words each, such as `man king woman`: as man is to king, so is woman to …"""
    similarity: str | None = None
    """A file of word pairs scored by people, such as WordSim-353: word, word, score in each line."""
    questions: str | None = None
    """A file of analogies, such as questions-words.txt: four words in each line, sections beginning with `:`."""
    plot: int = Field(200, ge=0, le=1000)
    """Words in the picture `words.png`, the most frequent ones and those asked for; 0 for none."""
    projection: Literal["tsne", "umap", "pca"] = "tsne"
    """How the picture is made: near words near each other (tsne; umap keeps more of what lies between the groups), or
    the two directions of most spread."""

    @field_validator("analogies")
    @classmethod
    def _three_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if len(line.split()) != 3:
                raise ValueError(f"{line!r} has {len(line.split())} words; write three, such as 'man king woman'")
        return value

    def identity(self) -> dict[str, Any]:
        """The content of the files."""
        from mojiang.text._judging import read_lines

        given = {name: Path(path) for name in ("similarity", "questions") if (path := getattr(self, name))}
        for path in given.values():
            read_lines(path)
        return {name: sha256_file(path) for name, path in given.items()}

    def run(self, run: Run) -> Metrics:
        """Measure, draw, and write `report.json`."""
        from mojiang.text._vectors import load_vectors

        vectors = load_vectors(run.input("model").path)
        lowercase = not any(word != word.lower() for word in vectors.words)
        fold: Callable[[str], str] = str.lower if lowercase else str
        asked = [fold(word) for word in self.words] or _frequent(vectors)
        tables = [self._neighbours(vectors, asked)]
        if self.analogies:
            tables.append(self._analogies(vectors, fold))
        metrics: Metrics = {"words": len(vectors.words), "size": vectors.vectors_VD.shape[1]}
        if self.similarity:
            from mojiang.text._judging import agreement, read_pairs

            found = agreement(vectors, read_pairs(Path(self.similarity)), fold)
            metrics |= {"similarity_spearman": round(found.correlation, 5), "similarity_pairs": found.used}
            metrics |= {"similarity_pairs_unknown": found.pairs - found.used}
        if self.questions:
            figures, table = self._questions(vectors, fold)
            metrics |= figures
            tables.append(table)
        if self.plot:
            from mojiang.text._picture import draw

            chosen = list(dict.fromkeys([*(w for w in asked if w in vectors), *_plotted(vectors, self.plot)]))[
                : self.plot
            ]
            draw(vectors, chosen, self.projection, set(self.words), run.out / "words.png")
        verdict = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in metrics.items())
        scalars = {name: float(value) for name, value in metrics.items()}
        Report(title="Word vectors", scalars=scalars, tables=tables, verdict=verdict).save(run.out)
        return metrics

    def _neighbours(self, vectors: WordVectors, words: list[str]) -> Table:
        rows: list[list[Cell]] = []
        for word in words:
            found = vectors.neighbours(word, self.neighbours)
            rows.append([word, ", ".join(f"{other} {cosine:.2f}" for other, cosine in found)])
        return Table(title="nearest words", columns=["word", "nearest, with cosine"], rows=rows)

    def _analogies(self, vectors: WordVectors, fold: Callable[[str], str]) -> Table:
        rows: list[list[Cell]] = []
        for line in self.analogies:
            one, two, three = map(fold, line.split())
            found = vectors.analogy(one, two, three, 5)
            rows.append([f"{one} : {two} = {three} : ?", ", ".join(f"{other} {cosine:.2f}" for other, cosine in found)])
        return Table(title="analogies", columns=["question", "answers, with cosine"], rows=rows)

    def _questions(self, vectors: WordVectors, fold: Callable[[str], str]) -> tuple[Metrics, Table]:
        from mojiang.text._judging import answered, read_questions

        rows: list[list[Cell]] = []
        total = right = 0
        for section, questions in read_questions(Path(self.questions or "")).items():
            asked, hits = answered(vectors, questions, fold)
            total, right = total + asked, right + hits
            rows.append([section, len(questions), asked, hits / asked if asked else None])
        columns = ["section", "questions", "with known words", "right"]
        table = Table(title="analogy questions", columns=columns, rows=rows)
        return {"analogy_accuracy": round(right / max(total, 1), 5), "analogy_questions": total}, table


def _plotted(vectors: WordVectors, count: int) -> list[str]:
    """The most frequent words of content: no numbers, marks or stop words (if there are no others, any)."""
    from mojiang.text._stop_words import CHINESE, ENGLISH

    stops = ENGLISH | CHINESE
    words = [word for word in vectors.words if word.isalpha() and (len(word) > 2 or not word.isascii())]
    return ([word for word in words if word.lower() not in stops] or words or vectors.words)[:count]


def _frequent(vectors: WordVectors) -> list[str]:
    return _plotted(vectors, 8)

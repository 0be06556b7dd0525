"""Documents as sparse vectors: bag of words, TF-IDF, hashing, n-grams of words and characters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.config import Config
from mojiang.core.errors import BadInput
from mojiang.core.files import atomic_write
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Finding, Report, Table
from mojiang.data._documents import SPLITS
from mojiang.text._analysis import Analysis, Analyzer, Lot, analyzer_of, count_texts, read_lots
from mojiang.text._matrix import csr_matrix
from mojiang.text._sparse import (
    Frequencies,
    Norm,
    Sparse,
    Terms,
    Units,
    Weighting,
    count_lot,
    hashed_rows,
    inverse_frequency,
    rows_of,
)

if TYPE_CHECKING:
    from mojiang.core.run import Run

_SETTINGS: Final = "vectorizer.json"
_ROWS_AT_ONCE: Final = 512  # documents whose terms are in memory together
_SHOWN: Final = 20


class NGrams(Config):
    """What is counted."""

    units: Units = "words"
    """Words, characters, or characters within words (with a space at either end)."""
    shortest: int = Field(1, ge=1, le=20)
    """Fewest units in a row."""
    longest: int = Field(1, ge=1, le=20)
    """Most units in a row."""

    @model_validator(mode="after")
    def _in_order(self) -> NGrams:
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest} and longest only {self.longest}")
        return self


class Vectorize(Recipe):
    """Make a sparse vector of each document or example: how often it has each word or n-gram, weighted.

    The vocabulary and document frequencies come from the training split alone where there is one. Two passes over the
    texts, a few hundred at a time; what grows is the vocabulary, up to `max_terms`, and with `hashed` nothing does.
    Equal to scikit-learn's CountVectorizer, TfidfVectorizer and HashingVectorizer on the same settings.

    When not to use: where word order or meaning counts (`train.classify`, `train.contrastive`).
    Source: Salton & Buckley 1988; Weinberger et al. 2009; Manku & Motwani 2002.
    Example:
        >>> Vectorize(data="reviews", units="characters_in_words", longest=4).ngrams.longest
        4
    """

    recipe: ClassVar[str] = "text.vectorize"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """Documents, or examples with text."""
    segmenter: ModelRef | None = None
    """A segmenter made by text.segment, for Chinese words."""
    analysis: Analysis = Analysis()
    """What becomes of the words."""
    ngrams: NGrams = NGrams()
    """What is counted."""
    weight: Literal["counts", "binary", "tfidf"] = "tfidf"
    """How often a term occurs, whether it does, or how often times how rare it is."""
    sublinear: bool = False
    """1 + ln(count) in the place of the count."""
    smooth: bool = True
    """Document frequencies as if one more document had every term."""
    norm: Norm = "l2"
    """Length that each vector is brought to 1 in."""
    hashed: bool = False
    """Columns by hash, without a vocabulary; with tfidf there is still a pass for the frequencies of the columns."""
    buckets: int = Field(2**20, ge=2, le=2**31 - 1)
    """Columns of a hashed matrix."""
    signed: bool = True
    """Hashed terms count +1 or -1, so that collisions cancel out."""
    min_df: int = Field(2, ge=1)
    """Terms in fewer documents are left out."""
    max_df: float = Field(1.0, gt=0, le=1)
    """Terms in a larger share of documents are left out."""
    max_features: int | None = Field(None, ge=1)
    """Keep the most frequent terms only."""
    max_terms: int = Field(3_000_000, ge=1)
    """Different terms in memory while counting; the rarest go when there are more, and the report says so."""

    def run(self, run: Run) -> Metrics:
        """Write vectors-*.npz for each split, the vocabulary and the report."""
        vectorizer, frequencies = self._learn(run)
        vectorizer.save(run.out)
        path, sizes = run.input("data").path, dict[str, tuple[int, int]]()
        total = count_texts(path)
        for split in _splits(path):
            folder = run.out / split if split else run.out
            folder.mkdir(exist_ok=True)
            done = sum(count for count, _ in sizes.values())
            sizes[split or "all"] = _write(run, vectorizer, read_lots(path, split), folder, (done, total))
        rows = sum(count for count, _ in sizes.values())
        cells = sum(filled for _, filled in sizes.values())
        metrics: Metrics = {"documents": rows, "features": vectorizer.width, "nonzero": cells}
        metrics |= {"nonzero_per_document": round(cells / max(rows, 1), 2)}
        _report(run, metrics, vectorizer, frequencies, sizes)
        return metrics

    def _learn(self, run: Run) -> tuple[Vectorizer, Frequencies]:
        """The first pass: the vocabulary and document frequencies."""
        terms = Terms(self.ngrams.units, self.ngrams.shortest, self.ngrams.longest)
        weighting = Weighting(self.weight == "binary", self.sublinear, self.norm)
        analyzer, path = analyzer_of(run, self.analysis), run.input("data").path
        frequencies, columns = Frequencies(self.max_terms), np.zeros(self.buckets if self.hashed else 0, np.int64)
        if self.hashed and self.weight != "tfidf":
            return Vectorizer(analyzer, terms, weighting, None, self.buckets, self.signed), frequencies
        split = "train" if "train" in _splits(path) else None
        for documents in run.engine.map(partial(count_lot, analyzer, terms), _small(read_lots(path, split))):
            if self.hashed:
                made = hashed_rows(documents, self.buckets, self.signed)
                made.eliminate_zeros()
                columns += np.bincount(made.indices, minlength=self.buckets)
                frequencies.documents += len(documents)
            else:
                for counts in documents:
                    frequencies.add(counts)
            run.check_stop()
        if self.hashed:
            idf = inverse_frequency(np.maximum(columns, 0 if self.smooth else 1), frequencies.documents, self.smooth)
            return Vectorizer(analyzer, terms, weighting, None, self.buckets, self.signed, idf), frequencies
        kept = frequencies.vocabulary(self.min_df, self.max_df, self.max_features)
        if not kept:
            raise BadInput(
                f"no term is left of {len(frequencies.in_documents):,}",
                hint="lower --min-df, raise --max-df or --max-terms, or keep more words",
            )
        df = np.array([frequencies.in_documents[term] for term in kept])
        weighted = inverse_frequency(df, frequencies.documents, self.smooth) if self.weight == "tfidf" else None
        return Vectorizer(analyzer, terms, weighting, kept, len(kept), self.signed, weighted), frequencies


class Vectorizer:
    """Texts → sparse rows, with what was learned. `load_vectorizer` reads one from an artifact."""

    def __init__(
        self, analyzer: Analyzer, terms: Terms, weighting: Weighting, vocabulary: list[str] | None, width: int,
        signed: bool = True, idf: Any = None,
    ) -> None:  # fmt: skip
        self.analyzer, self.terms, self.weighting = analyzer, terms, weighting
        self.vocabulary, self.width, self.signed, self.idf = vocabulary, width, signed, idf
        self._places = {term: number for number, term in enumerate(vocabulary or ())}

    def transform(self, texts: Sequence[str]) -> Sparse:
        """A scipy CSR matrix with a row for each text."""
        return self.rows([self.terms.of(self.analyzer, text) for text in texts])

    def rows(self, documents: Sequence[Mapping[str, int]]) -> Sparse:
        """The same, of terms that are counted already."""
        if self.vocabulary is None:
            counts = hashed_rows(documents, self.width, self.signed)
        else:
            counts = rows_of(documents, self._places)
        return self.weighting(counts, self.idf)

    def save(self, folder: Path) -> None:
        """Write the settings, the vocabulary and the weights of its terms."""
        settings = {
            "analysis": self.analyzer.settings.model_dump(mode="json"), "terms": vars(self.terms),
            "weighting": vars(self.weighting), "width": self.width, "signed": self.signed,
        }  # fmt: skip
        atomic_write(folder / _SETTINGS, json.dumps(settings, indent=1) + "\n")
        if self.vocabulary is not None:
            atomic_write(folder / "vocabulary.json", json.dumps(self.vocabulary, ensure_ascii=False, indent=0) + "\n")
        if self.idf is not None:
            np.save(folder / "idf.npy", self.idf)


def load_vectorizer(folder: Path, segmenter: Path | None = None) -> Vectorizer:
    """The vectorizer of an artifact, for new texts; give the segmenter's folder again where there was one.

    Raises:
        BadInput: the folder holds none.
    """
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{folder} holds no vectorizer", hint="`mojiang text vectorize` makes one") from None
    path, idf = folder / "vocabulary.json", folder / "idf.npy"
    return Vectorizer(
        Analyzer(Analysis(**settings["analysis"]), segmenter), Terms(**settings["terms"]),
        Weighting(**settings["weighting"]), json.loads(path.read_text(encoding="utf-8")) if path.exists() else None,
        settings["width"], settings["signed"], np.load(idf) if idf.exists() else None,
    )  # fmt: skip


def read_vectors(folder: Path, split: str | None = None) -> Iterator[tuple[list[str], Sparse]]:
    """The ids of some documents and their rows, one file after another.

    Raises:
        BadInput: there are none.
    """
    found = sorted((folder / split if split else folder).glob("vectors-*.npz"))
    if not found:
        raise BadInput(
            f"{folder} holds no vectors" + (f" of {split}" if split else ""), hint="`mojiang text vectorize`"
        )
    for path in found:
        with np.load(path) as part:
            rows = csr_matrix((part["data"], part["indices"], part["indptr"]), shape=part["shape"])
            yield [id.decode() for id in part["ids"].tolist()], rows


def _splits(path: Path) -> list[str] | list[None]:
    names = [name for name in SPLITS if any((path / name).glob("*-[0-9]*.parquet"))]
    return names or [None]


def _small(lots: Iterator[Lot]) -> Iterator[Lot]:
    for lot in lots:
        for at in range(0, len(lot.ids), _ROWS_AT_ONCE):
            part = slice(at, at + _ROWS_AT_ONCE)
            yield Lot(lot.ids[part], lot.texts[part], lot.are_words[part])


def _write(
    run: Run, vectorizer: Vectorizer, lots: Iterator[Lot], folder: Path, place: tuple[int, int]
) -> tuple[int, int]:
    """The second pass over one split: how many rows, and how many cells that are not 0."""
    rows = cells = 0
    ids: list[list[str]] = []

    def remembered() -> Iterator[Lot]:
        for lot in _small(lots):
            ids.append(lot.ids)
            yield lot

    count = partial(count_lot, vectorizer.analyzer, vectorizer.terms)
    for number, documents in enumerate(run.engine.map(count, remembered())):
        made = vectorizer.rows(documents)
        made = made.astype(np.float32)
        names = np.array([id.encode() for id in ids[number]])
        ids[number] = []
        np.savez(
            folder / f"vectors-{number:05d}.npz", data=made.data, indices=made.indices, indptr=made.indptr,
            shape=made.shape, ids=names,
        )  # fmt: skip
        rows, cells = rows + made.shape[0], cells + made.nnz
        run.progress(place[0] + rows, place[1], unit="documents")
        run.check_stop()
    return rows, cells


def _report(
    run: Run, metrics: Metrics, vectorizer: Vectorizer, frequencies: Frequencies, sizes: dict[str, tuple[int, int]]
) -> None:
    rows: list[list[Cell]] = [[split, count, filled] for split, (count, filled) in sizes.items()]
    tables = [Table(title="vectors", columns=["split", "documents", "cells that are not 0"], rows=rows)]
    if vectorizer.vocabulary is not None:
        counts = Counter({term: frequencies.in_documents[term] for term in vectorizer.vocabulary})
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
        shown: list[list[Cell]] = [[term, number] for term, number in ranked]
        tables.append(Table(title="terms in most documents", columns=["term", "documents"], rows=shown))
    findings = []
    if frequencies.lost:
        text = f"terms in {frequencies.lost} documents or fewer may be missing: raise --max-terms, or use --hashed"
        run.warn(text)
        findings.append(Finding(level="warning", text=text))
    scalars = {name: float(value) for name, value in metrics.items()}
    verdict = f"{metrics['documents']:,} vectors of {vectorizer.width:,} features"
    Report(title="Sparse vectors", scalars=scalars, tables=tables, findings=findings, verdict=verdict).save(run.out)

"""Drop what is no good text, by rules, language, keywords, a classifier and a language model, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import pyarrow as pa
from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.files import sha256_file
from mojiang.core.protocols import Scorer, open_scorer
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Changes, Drop
from mojiang.data._keywords import Keywords, read_keywords
from mojiang.data._linear import HashedLinear, load_linear
from mojiang.data._mapping import Mapped, map_documents, map_texts
from mojiang.data._ngrams import NOT_KNOWN, Calm
from mojiang.data._rules import C4, FineWeb, Gopher, Repetition, Verdict, c4, calm_texts, fineweb, gopher, repetition
from mojiang.data._words import Segmenter, is_exact, words

if TYPE_CHECKING:
    from mojiang.core.run import Run

_SCORED: Final = 16  # texts given to the language model at a time


class Filter(Recipe):
    """Keep good texts: rules of Gopher, C4 and FineWeb with Chinese equivalents, and what you would add to them.

    Every document is asked in this order, and the first "no" is its reason: language, keywords, Gopher's rules on
    quality and on repetition, FineWeb's, C4's (off: they take lines out), the classifier of `data.quality`, and bits
    for each byte under a language model. The report lists every rule with its threshold and what it dropped. Chinese is
    counted by characters or by segmented words, never by spaces. Code is kept as it is, unless `code` says otherwise.

    When not to use: on verse, tables, dialogue or classics with the thresholds for web pages; look at what was dropped.
    Source: Rae et al. 2021 (Gopher); Raffel et al. 2020 (C4); Penedo et al. 2024 (FineWeb); Wenzek et al. 2020 (CCNet)
    Example:
        >>> Filter(data="clean", languages=("en", "zh"), min_words=30).gopher.min_words
        30
    """

    recipe: ClassVar[str] = "data.filter"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus to filter."""
    languages: tuple[str, ...] = ()
    """Keep only documents of these languages, as data.load found them (en, zh, …); none: keep all."""
    gopher: Gopher = Gopher()
    """Rules on words, symbols and lines."""
    repetition: Repetition = Repetition()
    """Rules on what is said again."""
    fineweb: FineWeb = FineWeb()
    """Rules on lines."""
    c4: C4 = C4()
    """Rules that take lines out."""
    keywords: Path | None = None
    """A file of words, one a line, that speak against a text (a list of slurs, of spam, …)."""
    max_keywords: float = Field(0.0, ge=0)
    """Keywords for each thousand words above which a document goes; 0: one is enough."""
    quality: ModelRef | None = None
    """A classifier made by data.quality."""
    min_quality: float = Field(0.5, ge=0, le=1)
    """Documents that it scores lower go."""
    language_model: ModelRef | None = None
    """A model that says how probable a text is."""
    min_bits: float = Field(0.2, ge=0)
    """Documents with fewer bits for each byte under it go: the same again and again."""
    max_bits: float = Field(4.0, gt=0)
    """Documents with more go: noise, or a language it does not know."""
    segmenter: Segmenter = "characters"
    """How Chinese words are counted: 1.64 characters as one word, or jieba's words (extra `chinese`)."""
    code: bool = False
    """Judge source code too."""

    @model_validator(mode="after")
    def _does_something(self) -> Filter:
        if self.min_bits >= self.max_bits:
            raise ValueError(f"min_bits is {self.min_bits:g} and max_bits {self.max_bits:g}: nothing could be kept")
        asked = (self.languages, self.keywords, self.quality, self.language_model)
        if not any(asked) and not any(g.on for g in (self.gopher, self.repetition, self.fineweb, self.c4)):
            raise ValueError("every rule is off, and nothing else is asked for")
        return self

    def identity(self) -> dict[str, Any]:
        """The content of the list of keywords."""
        if self.keywords is None:
            return {}
        read_keywords(self.keywords)
        return {"keywords": sha256_file(self.keywords)}

    def run(self, run: Run) -> Metrics:
        """Judge every document; writes documents, drops and the report."""
        if self.segmenter == "jieba":
            words("词", "zh", self.segmenter)  # before the workers start: one clear error
        settings = Settings(
            self, read_keywords(self.keywords) if self.keywords else Keywords(),
            run.input("quality").path if self.quality else None,
        )  # fmt: skip
        scorer = open_scorer(run.input("language_model").path, run.device) if self.language_model else None
        after = partial(self._score, scorer) if scorer else None
        with Accounting(run.out, "data.filter") as books:
            map_documents(run, partial(judge_batch, settings), run.input("data").path, books, after=after)
            books.refuse_nothing("loosen the rule that dropped most")
            return books.finish(tables=[self._table(books)])

    def _score(self, scorer: Scorer, mapped: Mapped) -> Mapped:
        """Take out of what a batch kept what the language model finds too probable or too improbable."""
        texts = mapped.kept.column("text").to_pylist()
        formats = mapped.kept.column("format").to_pylist()
        places = [i for i, format in enumerate(formats) if self.code or format != "code"]
        keep = [True] * len(texts)
        for start in range(0, len(places), _SCORED):
            some = places[start : start + _SCORED]
            for place, bits in zip(some, scorer.bits_per_byte([texts[i] for i in some]), strict=True):
                if self.min_bits <= bits <= self.max_bits:
                    continue
                keep[place] = False
                row = mapped.kept.slice(place, 1).select(["id", "path", "bytes"]).to_pylist()[0]
                reason = "too-predictable" if bits < self.min_bits else "too-surprising"
                detail = f"{bits:.3f} bits per byte, {self.min_bits:g} to {self.max_bits:g} allowed"
                mapped.drops.append(Drop(row["id"], row["path"], reason, detail, row["bytes"]))
        mapped.kept = mapped.kept.filter(pa.array(keep))
        return mapped

    def _table(self, books: Accounting) -> Table:
        """Every rule that is on, its threshold, and what it dropped."""
        table = Table(title="rules", columns=["rule", "threshold"])
        for name in ("gopher", "repetition", "fineweb", "c4"):
            group = getattr(self, name)
            for rule, value in group.model_dump().items() if group.on else ():
                if rule != "on":
                    shown = value if isinstance(value, int | float | str) else str(value)
                    table.rows.append([f"{name}.{rule}", shown])
        for rule, on in (("max_keywords", self.keywords), ("min_quality", self.quality),
                         ("min_bits", self.language_model), ("max_bits", self.language_model)):  # fmt: skip
            if on:
                table.rows.append([rule, getattr(self, rule)])
        return table


@dataclass(frozen=True)
class Settings:
    """What a worker needs."""

    recipe: Filter
    keywords: Keywords = field(default_factory=Keywords)
    quality: Path | None = None


class Reading(NamedTuple):
    """A text's words, what Gopher's rules on quality say of it, and which rules on n-grams it surely keeps."""

    tokens: Sequence[str]
    quality: Verdict | None
    calm: Calm = NOT_KNOWN


def read(recipe: Filter, text: str, language: str) -> Reading:
    """Cut a text into words, and look at them."""
    tokens = words(text, language, recipe.segmenter)
    exact = is_exact(language, recipe.segmenter)
    return Reading(tokens, gopher(text, tokens, language, recipe.gopher, exact) if recipe.gopher.on else None)


def judge_batch(settings: Settings, batch: pa.RecordBatch) -> Mapped:
    """Judge the documents of a batch; their n-grams are looked at together first, which is many times as fast."""
    readings = iter(read_batch(settings.recipe, batch))
    return map_texts(lambda row, changes: judge_row(settings, row, changes, next(readings)), batch)


def read_batch(recipe: Filter, batch: pa.RecordBatch) -> list[Reading]:
    """What each document that is judged looks like; of those that are good so far, the n-grams together."""
    rows = list(zip(*(batch.column(name).to_pylist() for name in ("text", "language", "format")), strict=True))
    readings = [
        read(recipe, text, language) if _is_judged(recipe, language, format) else Reading((), None)
        for text, language, format in rows
    ]
    if not recipe.repetition.on:
        return readings
    for exact in (True, False):
        places = [
            n for n, row in enumerate(rows)
            if readings[n].quality is None and is_exact(row[1], recipe.segmenter) is exact
        ]  # fmt: skip
        texts, tokens = [rows[n][0] for n in places], [readings[n].tokens for n in places]
        for n, calm in zip(places, calm_texts(texts, tokens, recipe.repetition, exact), strict=True):
            readings[n] = readings[n]._replace(calm=calm)
    return readings


def _is_judged(recipe: Filter, language: str, format: str) -> bool:
    return (format != "code" or recipe.code) and (not recipe.languages or language in recipe.languages)


def judge_row(
    settings: Settings, row: dict[str, Any], changes: Changes, reading: Reading | None = None
) -> tuple[str, str, str]:
    """The document's text, and why it goes."""
    recipe, text, language = settings.recipe, row["text"], row["language"]
    if row["format"] == "code" and not recipe.code:
        return text, "", ""
    if not _is_judged(recipe, language, row["format"]):
        return text, "language", f"{language}, and {', '.join(recipe.languages)} are kept"
    verdict = judge(settings, text, language, changes, reading)
    if verdict.reason != "":
        return text, verdict.reason, verdict.detail
    if verdict.text != text:
        changes.note("documents with lines taken out", text, verdict.text)
    return verdict.text, "", ""


def judge(
    settings: Settings, text: str, language: str, changes: Changes, reading: Reading | None = None
) -> Verdict:  # fmt: skip
    """What keywords, rules and classifier say, the first "no" first."""
    recipe = settings.recipe
    reading = reading or read(recipe, text, language)
    tokens = reading.tokens
    if hits := settings.keywords.found(text, language):
        share = 1000 * len(hits) / max(1, len(tokens))
        if share > recipe.max_keywords:
            shown = ", ".join(dict.fromkeys(hits))
            return Verdict("keywords", f"{share:.3g} for each thousand words: {shown}", text)
    for said in _rules(recipe, text, reading, language):
        if said is not None:
            return said
    verdict = c4(text, language, recipe.c4, changes, recipe.segmenter) if recipe.c4.on else Verdict("", "", text)
    if verdict.reason or settings.quality is None:
        return verdict
    score = _classifier(settings.quality).score(verdict.text, language)
    if score < recipe.min_quality:
        return Verdict("quality", f"{score:.3f}, at least {recipe.min_quality:g}", text)
    return verdict


def _rules(recipe: Filter, text: str, reading: Reading, language: str) -> Iterator[Verdict | None]:
    yield reading.quality
    exact = is_exact(language, recipe.segmenter)
    if recipe.repetition.on:
        yield repetition(text, reading.tokens, recipe.repetition, exact, reading.calm)
    if recipe.fineweb.on:
        yield fineweb(text, reading.tokens, language, recipe.fineweb, exact)


@cache
def _classifier(path: Path) -> HashedLinear:
    return load_linear(path)

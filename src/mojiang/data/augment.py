"""More training examples out of those there are: edited, translated there and back, or said in other words."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.files import sha256_file
from mojiang.core.protocols import Generator, open_generator
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Table
from mojiang.data._accounting import Accounting, Drop, Tally
from mojiang.data._documents import SPLITS, ShardWriter, document_id
from mojiang.data._eda import edit
from mojiang.data._endpoint import EndpointGenerator
from mojiang.data._forms import FORMS, keys_of, schema_of, size_of
from mojiang.data._labels import Judge, fold
from mojiang.data._sets import SETS
from mojiang.data._thesaurus import WORDNET, Thesaurus, fetch_cedict, fetch_wordnet, read_groups
from mojiang.data._words import UNSPACED
from mojiang.data.examples import has_split, read_examples

if TYPE_CHECKING:
    from mojiang.core.run import Run

Method = Literal["synonym", "insert", "swap", "delete", "back_translation", "paraphrase"]

_EDITS: Final = ("synonym", "insert", "swap", "delete")
_WITH_THESAURUS: Final = ("synonym", "insert")


class Augment(Recipe):
    """Add edited copies of labelled training examples; what is held out is not touched.

    synonym, insert, swap, delete: a share of the words is replaced by synonyms, added to, swapped, left out (EDA);
    synonyms come from WordNet (English), CC-CEDICT (Chinese) or a file. back_translation: by two translators of ours
    (`forth`, `back`) or an endpoint. paraphrase: by an instructed model of ours or an endpoint. Whatever negates stays.

    Every copy is judged by a classifier that has not seen its original: where the original was recognised and the copy
    is not, the copy is dropped. Copies of what is there, or held out, are dropped too.

    When not to use: with enough examples; or where single words decide, as in grammar or arithmetic.
    Source: Wei and Zou 2019 (EDA); Sennrich et al. 2016 (back-translation); Fellbaum 1998 (WordNet); CC-CEDICT.
    Example:
        >>> Augment(data="reviews", methods=("swap", "delete"), copies=2)
        Augment(data='reviews', ...)
    """

    recipe: ClassVar[str] = "data.augment"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """A dataset of labelled examples with a training split."""
    methods: tuple[Method, ...] = ("synonym",)
    """What to do; each makes copies of its own."""
    copies: int = Field(1, ge=1, le=20)
    """Copies of each example by each method."""
    share: float = Field(0.1, gt=0, le=1)
    """Share of the words that are edited, one at least."""
    labels: tuple[str, ...] = ()
    """Only examples with these labels (the rare ones); none: all."""
    max_examples: int | None = Field(None, ge=1)
    """Work on this many examples at most, the first by id, which is a hash."""
    thesaurus_en: Path | None = None
    """English synonyms, a group on a line, instead of WordNet."""
    thesaurus_zh: Path | None = None
    """Chinese synonyms, a group on a line (or in Cilin's form), instead of CC-CEDICT."""
    forth: ModelRef | None = None
    """Translator into another language, for back_translation."""
    back: ModelRef | None = None
    """Translator back."""
    model: ModelRef | None = None
    """Instructed model, for paraphrase."""
    endpoint: str | None = None
    """URL of an OpenAI-compatible endpoint, instead of models; the key is read from $OPENAI_API_KEY."""
    endpoint_model: str = ""
    """The model to ask for there."""
    pivot: str = "French"
    """The language that an endpoint translates into and back from."""
    prompt: str = "Say this in other words, in the same language. Answer with the new text only.\n\n{text}"
    """What a model is asked for a paraphrase; {text} is the example."""
    max_tokens: int = Field(256, ge=1)
    """Longest text that a model writes."""
    temperature: float = Field(0.7, ge=0)
    """How freely a model writes; 0 is always the likeliest, and then one copy is all there is."""
    check: bool = True
    """Drop copies that a classifier no longer takes for their label."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Augment:
        if not self.methods:
            raise ValueError("there is no method")
        if "back_translation" in self.methods and not self.endpoint and not (self.forth and self.back):
            raise ValueError("back_translation needs forth and back, or an endpoint")
        if "paraphrase" in self.methods and not self.endpoint and not self.model:
            raise ValueError("paraphrase needs a model or an endpoint")
        if self.endpoint and not self.endpoint_model:
            raise ValueError("an endpoint needs endpoint_model")
        if "{text}" not in self.prompt:
            raise ValueError("the prompt has no {text}")
        return self

    def identity(self) -> dict[str, Any]:
        """The content of the thesauri."""
        if not set(self.methods) & set(_WITH_THESAURUS):
            return {}
        (cedict,) = SETS["cedict"].packages
        return {
            "en": sha256_file(self.thesaurus_en) if self.thesaurus_en else WORDNET.sha256,
            "zh": sha256_file(self.thesaurus_zh) if self.thesaurus_zh else cedict.sha256,
        }

    def run(self, run: Run) -> Metrics:
        """Write labelled-*.parquet for each split, the drops and the report."""
        path = run.input("data").path
        rows = list(read_examples(path, "train", "labelled"))
        chosen = [
            row for row in sorted(rows, key=lambda r: str(r["id"])) if not self.labels or row["label"] in self.labels
        ]
        if not chosen:
            raise BadInput(
                f"no training example is labelled {', '.join(self.labels)}", hint="look at the report's labels"
            )
        made = list(self._make(run, chosen[: self.max_examples]))
        composition: dict[str, dict[str, Tally]] = {
            name: defaultdict(Tally) for name in ("split", "language", "licence")
        }
        with Accounting(run.out, "data.augment", composition=composition) as books:
            seen: set[bytes] = set()
            for split in reversed(SPLITS):  # what is held out first: no copy of it may be trained on
                if has_split(path, split, "labelled"):
                    with ShardWriter(run.out / split, "labelled", schema_of("labelled")) as writer:
                        for row in rows if split == "train" else read_examples(path, split, "labelled"):
                            seen.add(keys_of(FORMS["labelled"], row, "")[0])
                            books.saw(row["bytes"])
                            books.keep({**row, "split": split})
                            writer.add(row)
                        if split == "train":
                            tables = self._keep(made, rows, seen, books, writer)
            return {**books.finish(tables=tables[:1]), **{str(n): float(str(v)) for n, v in tables[1].rows}}

    def _make(self, run: Run, rows: Sequence[dict[str, Any]]) -> Iterator[_Made]:
        languages = {"zh" if row["language"] in UNSPACED else "en" for row in rows}
        thesauri = self._thesauri(run, languages) if set(self.methods) & set(_WITH_THESAURUS) else {}
        total = len(rows) * len(self.methods)
        for place, method in enumerate(self.methods):
            if method in _EDITS:
                for number, row in enumerate(rows):
                    words = thesauri.get("zh" if row["language"] in UNSPACED else "en", {})
                    for copy in range(self.copies):
                        chance = random.Random(f"{run.seed} {row['id']} {method} {copy}")
                        text = edit(row["text"], row["language"], method, self.share, words, chance)
                        yield _Made(row, method, copy, text)
                    if number % 1000 == 0:
                        run.progress(place * len(rows) + number, total, unit="examples")
                        run.check_stop()
                continue
            for copy in range(self.copies):
                texts = self._written(run, method, [row["text"] for row in rows], copy)
                yield from (_Made(row, method, copy, text) for row, text in zip(rows, texts, strict=True))
                run.check_stop()

    def _thesauri(self, run: Run, languages: set[str]) -> dict[str, Thesaurus]:
        made: dict[str, Thesaurus] = {}
        for language, file, fetch in (
            ("en", self.thesaurus_en, fetch_wordnet), ("zh", self.thesaurus_zh, fetch_cedict)
        ):  # fmt: skip
            if language in languages:
                made[language] = read_groups(file) if file else fetch(run.scratch)
        return made

    def _written(self, run: Run, method: Method, texts: Sequence[str], copy: int) -> list[str]:
        def ask(name: str, prompts: Sequence[str]) -> list[str]:
            generator: Generator = (
                EndpointGenerator(self.endpoint, self.endpoint_model)
                if self.endpoint
                else open_generator(run.input(name).path, run.device)
            )
            seed = run.seed + 1_000_003 * copy
            return generator.generate(prompts, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)

        if method == "paraphrase":
            return ask("model", [self.prompt.replace("{text}", text) for text in texts])
        if self.endpoint:
            there = ask("", [f"Translate into {self.pivot}. Answer with the translation only.\n\n{t}" for t in texts])
            wanted = "Translate into the language of the sample. Answer with the translation only."
            asked = zip(texts, there, strict=True)
            return ask("", [f"{wanted}\n\nSample: {own[:80]}\n\nText: {other}" for own, other in asked])
        return ask("back", [text or "." for text in ask("forth", texts)])

    def _keep(
        self, made: Sequence[_Made], rows: Sequence[dict[str, Any]], seen: set[bytes], books: Accounting,
        writer: ShardWriter,
    ) -> list[Table]:  # fmt: skip
        judged = _judged(made, rows)
        counts: dict[str, Counter[str]] = {method: Counter() for method in self.methods}
        for one, (before, after) in zip(made, judged, strict=True):
            row, label = one.as_row(), str(one.row["label"])
            count, key = counts[one.method], keys_of(FORMS["labelled"], row, "")[0]
            count.update(made=1, recognised=before == label, still=before == label == after)
            reason = "unchanged" if one.text == one.row["text"] or not one.text.strip() else ""
            reason = reason or ("exact-copy" if key in seen else "")
            if self.check and not reason and before == label != after:
                reason = "label-changed"
            books.saw(row["bytes"])
            if reason:
                books.drop(Drop(row["id"], row["path"], reason, f"taken for {after}" * (after != label), row["bytes"]))
                continue
            seen.add(key)
            books.keep({**row, "split": "train"})
            writer.add(row)
            count["kept"] += 1
            books.changes.document = row["path"]
            books.changes.note(f"{one.method} of {label}", one.row["text"], one.text)
        table = Table(title="by method", columns=["method", "made", "kept", "label preserved"])
        for method, count in counts.items():
            preserved: Cell = count["still"] / count["recognised"] if count["recognised"] else None
            table.rows.append([method, count["made"], count["kept"], preserved])
        added = sum(count["kept"] for count in counts.values())
        known, still = (sum(count[name] for count in counts.values()) for name in ("recognised", "still"))
        figures = Table(title="figures", columns=["name", "value"])
        figures.rows.extend([["added", added], ["label_preserved", still / max(1, known)]])
        figures.rows.append(["originals_recognised", known / max(1, len(made))])
        return [table, figures]


@dataclass(frozen=True)
class _Made:
    row: dict[str, Any]
    method: str
    copy: int
    text: str

    def as_row(self) -> dict[str, Any]:
        """The copy as an example: its path says what it was made from, and how."""
        mark = f"~{self.method}-{self.copy + 1}"
        made = {**self.row, "text": self.text, "path": self.row["path"] + mark}
        made["id"] = document_id(self.row["origin"], self.row["path"], f"{self.row['id']}{mark}")
        return {**made, "bytes": size_of(FORMS["labelled"], made)}


def _judged(made: Sequence[_Made], rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """For each copy, what a classifier that has not seen its original takes the original and the copy for."""
    judge = Judge(rows)
    halves = [fold(one.row["text"]) for one in made]
    languages = [one.row["language"] for one in made]
    before = judge.labels_of([one.row["text"] for one in made], languages, halves)
    after = judge.labels_of([one.text for one in made], languages, halves)
    return list(zip(before, after, strict=True))

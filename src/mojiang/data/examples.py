"""Labelled examples from files of any usual shape into a dataset of one form, without copies, split by content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Metrics, Recipe
from mojiang.data._documents import SPLITS, read_shards, shard_paths
from mojiang.data._examples import Policy, make_examples, records_in
from mojiang.data._formats import Notes
from mojiang.data._forms import FORMS, plain
from mojiang.data._licence import UNKNOWN
from mojiang.data._sources import STDLIB, digest_of, open_source

if TYPE_CHECKING:
    from mojiang.core.run import Run

FormName = Literal["labelled", "tagged", "spans", "pairs", "conversations", "preferences", "prompts", "images"]


class Examples(Recipe):
    """Read labelled examples from a file or a folder into train, validation and test.

    Reads jsonl, json, csv, tsv and parquet for every form, and besides: text files in folders named by class
    (labelled); CoNLL columns and `word/tag` text (tagged); SQuAD (spans); tab-separated text (pairs); OpenAI, ShareGPT
    and alpaca records and ChatterBot YAML (conversations); TRL's prompt, chosen and rejected, or prompt, completion and
    label (preferences); idx files and PNG or JPEG in folders named by class (images). Plain or .gz/.zst, any encoding.
    Every record is kept or dropped with a reason.

    When not to use: for documents without labels (data.load), or for pairs mined from them (data.mine).
    Source: the formats of CoNLL, Universal Dependencies, SQuAD, TRL and MNIST; Lee et al. 2022 on dropping copies.
    Example:
        >>> Examples(source="reviews.csv", form="labelled", columns={"text": "review", "label": "stars"})
        Examples(source='reviews.csv', ...)
    """

    recipe: ClassVar[str] = "data.examples"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    source: str = Field(min_length=1)
    """A file or a folder."""
    form: FormName
    """labelled, tagged, spans, pairs, conversations, preferences, prompts or images (docs/concepts/examples.md)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column names and theirs, as `text=review,label=stars`; `pairs.zh` is a field within a field, and for CoNLL
    theirs is a position from 0. Usual names need not be given."""
    dedup: bool = True
    """Drop exact copies: equal but for case, spaces and Unicode form. A copy in train of a held-out example goes."""
    conflicts: Literal["drop", "first"] = "drop"
    """The same text with different labels: drop every copy, or keep the first."""
    own_splits: bool = True
    """Where file or folder names say train, validation (dev) or test, keep to that."""
    validation: float = Field(0.05, ge=0, lt=0.5)
    """Share to tune on, where the files have no such split; 0 for none."""
    test: float = Field(0.05, ge=0, lt=0.5)
    """Share to measure on, once, where the files have no such split; 0 for none."""
    max_examples: int | None = Field(None, ge=1)
    """Keep at most this many, chosen by content hash; a smaller number gives a part of a larger one."""
    licence: str | None = None
    """SPDX identifier of what says nothing itself by a licence field or a LICENSE file."""
    language: str | None = None
    """ISO 639-1 code of all texts, instead of detecting it per example."""

    @field_validator("columns", mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        """`text=review,label=stars`, as a command line gives it."""
        if not isinstance(value, str):
            return value
        pairs = [word.partition("=") for word in value.split(",") if word]
        if any(not (ours and equals and theirs) for ours, equals, theirs in pairs):
            raise ValueError("write ours=theirs, separated by commas, such as text=review,label=stars")
        return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}

    @model_validator(mode="after")
    def _is_possible(self) -> Examples:
        if self.validation + self.test > 0.5:
            raise ValueError(f"validation + test is {self.validation + self.test:g}; at most half may be held out")
        names = [column.name for column in FORMS[self.form].columns]
        usual = [*names, *FORMS[self.form].aliases]
        if wrong := [ours for ours in self.columns if ours not in usual]:
            raise ValueError(f"{self.form} have no column {wrong[0]!r}; they have {', '.join(names)}")
        return self

    def identity(self) -> dict[str, Any]:
        """The content of the source: relative names and SHA-256 of its files; times and location do not count."""
        source = open_source(self.source)
        return {"source": source.name, "content": digest_of(source)}

    def run(self, run: Run) -> Metrics:
        """Write FORM-*.parquet for each split, the drops and the report."""
        if self.source == STDLIB:
            raise BadInput(f"{STDLIB} holds no examples", hint="give a file or a folder")
        source, notes = open_source(self.source), Notes()
        policy = Policy(
            form=self.form, origin=source.name, columns=self.columns, dedup=self.dedup, conflicts=self.conflicts,
            own_splits=self.own_splits, validation=self.validation, test=self.test, max_examples=self.max_examples,
            licence=source.licence or self.licence or UNKNOWN, language=self.language,
        )  # fmt: skip
        metrics = make_examples(run, records_in(source, policy, notes), policy, f"data.examples: {source.name}")
        for what, count in sorted(notes.counts.items()):
            run.warn(f"{what}: {count:,}")
        return metrics


def read_examples(path: Path, split: str, form: str) -> Iterator[dict[str, Any]]:
    """Stream the rows of one split of a dataset of examples, with the columns of their form and `id`.

    Args:
        path: the folder of a dataset artifact.
        split: "train", "validation" or "test".
        form: what the reader needs, such as "labelled".

    Raises:
        BadInput: the dataset has no such split, or holds examples of another form.
    """
    if split in SPLITS and not has_split(path, split, form) and (others := forms_in(path)):
        if form not in others:
            wanted = ", ".join(column.name for column in FORMS[form].columns) if form in FORMS else form
            raise BadInput(
                f"the dataset holds {' and '.join(others)}, and {form} are needed",
                hint=f"{form} have the columns {wanted}; data.examples --form {form} makes them from files",
            )
        raise BadInput(f"the dataset has no {split} split", hint=f"make it again with a share for --{split}")
    for batch in read_shards(shard_paths(path, split, form)):
        yield from map(plain, batch.to_pylist())


def has_split(path: Path, split: str, form: str) -> bool:
    """Whether a dataset has examples of this form in that split."""
    return any((path / split).glob(f"{form}-*.parquet"))


def forms_in(path: Path) -> list[str]:
    """The forms of the examples that a dataset holds; none for documents."""
    return [form for form in FORMS if any(has_split(path, split, form) for split in SPLITS)]

"""From a text to its sentences of words, in English, Chinese and both mixed: what every capability here begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mojiang.core.config import Config
from mojiang.core.errors import BadInput, Unavailable
from mojiang.data._documents import SPLITS, read_documents, read_shards, shard_paths
from mojiang.data.examples import forms_in
from mojiang.text import _chinese, _english
from mojiang.text._stop_words import LISTS

if TYPE_CHECKING:
    from mojiang.core.run import Run

Form = Literal["surface", "porter", "snowball", "lemma"]
WORDS_FORMAT: Final = "words"
"""The format of documents that are words already: separated by spaces, one sentence a line."""
# The columns that hold a form's text.
_TEXT_COLUMNS: Final = {"labelled": ("text", "text_b"), "tagged": ("tokens",), "pairs": ("source", "target"),
                        "spans": ("context",)}  # fmt: skip


class Analysis(Config):
    """What becomes of a text's words."""

    lowercase: bool = True
    """Words in lower case."""
    form: Form = "surface"
    """English words as they are, their stem (porter, or the better snowball), or their WordNet lemma."""
    marks: bool = False
    """Keep punctuation and other marks."""
    stop_words: bool = True
    """Keep the words of the stop lists (English and Chinese closed classes)."""
    drop: tuple[str, ...] = ()
    """More words to drop, as they are in lower case before stemming."""
    chinese: _chinese.Way = "characters"
    """How Chinese is cut where no segmenter is given: characters, or jieba (extra `jieba`)."""


@dataclass(frozen=True)
class Analyzer:
    """Callable in any process: the sentences of a text, each a list of words."""

    settings: Analysis = field(default_factory=Analysis)
    segmenter: Path | None = None

    def sentences(self, text: str, is_words: bool = False) -> list[list[str]]:
        """The sentences of a text; with `is_words` one a line, words between spaces."""
        if is_words:
            raw = [line.split() for line in text.splitlines()]
        else:
            raw = [self._words(sentence) for sentence in _english.sentences(text)]
        return [kept for sentence in raw if (kept := self.finish(sentence))]

    def words(self, text: str) -> list[str]:
        """The words of a text, all sentences in one.

        >>> Analyzer(Analysis(form="snowball", stop_words=False)).words("The cats were running. 猫在跑。")
        ['cat', 'run', '猫', '跑']
        """
        return [word for sentence in self.sentences(text) for word in sentence]

    def finish(self, words: Sequence[str]) -> list[str]:
        """Words as cut → words as asked for."""
        settings, found = self.settings, []
        for word in words:
            lower = word.lower()
            if not settings.marks and not _has_letter(word):
                continue
            if lower in self._dropped:
                continue
            if settings.form != "surface" and lower.isascii():
                found.append(self._form(lower))
            else:
                found.append(lower if settings.lowercase else word)
        return found

    def _words(self, sentence: str) -> list[str]:
        if _chinese.has_han(sentence):
            return _chinese.words(sentence, self.settings.chinese, self.segmenter)
        return _english.words(sentence)

    @cached_property
    def _dropped(self) -> frozenset[str]:
        listed = frozenset() if self.settings.stop_words else frozenset().union(*LISTS.values())
        return listed | frozenset(self.settings.drop)

    @cached_property
    def _form(self) -> Callable[[str], str]:
        return form_of(self.settings.form)


def _has_letter(word: str) -> bool:
    return word[0].isalnum() or any(c.isalnum() for c in word)


def form_of(form: Form) -> Callable[[str], str]:
    """What turns a lower-case English word into its stem or lemma.

    Raises:
        Unavailable: stems are asked for and snowballstemmer is not installed.
    """
    if form == "surface":
        return str
    if form == "lemma":
        from mojiang.text._wordnet import lemma_of

        return lemma_of
    try:
        import snowballstemmer
    except ModuleNotFoundError as error:
        raise Unavailable("snowballstemmer is not installed", hint="pip install 'mojiang[nlp]'") from error
    stem: Callable[[str], str] = snowballstemmer.stemmer("porter" if form == "porter" else "english").stemWord
    return stem


@dataclass(frozen=True)
class Lot:
    """Texts that are read and worked on together: each a text, or words already."""

    ids: list[str]
    texts: list[str]
    are_words: list[bool]


def read_lots(path: Path, split: str | None) -> Iterator[Lot]:
    """The texts of a dataset of documents or examples, in bounded memory.

    Raises:
        BadInput: there is no such split, or nothing with text.
    """
    forms = [form for form in forms_in(path) if form != "documents"]
    if not forms:
        for batch in read_documents(path, split, columns=["id", "format", "text"]):
            are_words = [value == WORDS_FORMAT for value in batch.column("format").to_pylist()]
            yield Lot(batch.column("id").to_pylist(), batch.column("text").to_pylist(), are_words)
        return
    form = next((form for form in forms if form in _TEXT_COLUMNS), None)
    if form is None:
        raise BadInput(
            f"the dataset holds {' and '.join(forms)}", hint=f"documents and {', '.join(_TEXT_COLUMNS)} can be read"
        )
    for name in (split,) if split else SPLITS:
        if split is None and not any((path / name).glob(f"{form}-*.parquet")):
            continue
        for batch in read_shards(shard_paths(path, name, form)):
            rows = batch.to_pylist()
            texts = [_joined(row, form) for row in rows]
            yield Lot([row["id"] for row in rows], texts, [form == "tagged"] * len(rows))


def count_texts(path: Path) -> int:
    """How many texts `read_lots` gives of all splits, from the Parquet footers."""
    import pyarrow.parquet as pq

    form = next((form for form in forms_in(path) if form in _TEXT_COLUMNS), "documents")
    return sum(pq.ParquetFile(shard).metadata.num_rows for shard in shard_paths(path, None, form))


def _joined(row: dict[str, Any], form: str) -> str:
    if form == "tagged":
        return " ".join(row["tokens"])
    return "\n\n".join(row[column] for column in _TEXT_COLUMNS[form] if row[column])


def analyze_lot(analyzer: Analyzer, lot: Lot) -> list[list[list[str]]]:
    """For each text its sentences of words."""
    pairs = zip(lot.texts, lot.are_words, strict=True)
    return [analyzer.sentences(text, is_words) for text, is_words in pairs]


def analyzer_of(run: Run, settings: Analysis) -> Analyzer:
    """The analyzer with the run's segmenter, if one was given."""
    given = run.inputs("segmenter")
    return Analyzer(settings, given[0].path if given else None)

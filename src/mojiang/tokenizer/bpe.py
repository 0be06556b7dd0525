"""Train a byte-level BPE tokenizer on the train split, and measure it on text it has not seen."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Finding, Report, Sample, Table
from mojiang.data._documents import count_bytes, read_documents
from mojiang.tokenizer._format import SPECIAL_TOKENS, empty_tokenizer, save_tokenizer
from mojiang.tokenizer.load import Tokenizer

if TYPE_CHECKING:
    from mojiang.core.run import Run

_MEASURED_BYTES: Final = 20_000_000  # of held-out text; more would not change a digit
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_SMALLEST_VOCABULARY: Final = 1024
_LARGEST_VOCABULARY: Final = 65536
_PROBES: Final = (
    ("en", "The quick brown fox jumps over the lazy dog."),
    ("zh", "春眠不觉晓，处处闻啼鸟。我们的工作是训练语言模型。"),
    ("code", "def add(a: int, b: int) -> int:\n    return a + b\n"),
)


class BPE(Recipe):
    """Learn a byte-level BPE vocabulary from the train split.

    Any text round-trips exactly, since bytes are the alphabet. Words are cut by a pattern that bounds runs of Chinese
    (which has no spaces), keeps indentation in one token, and sets digits in groups of three. Comes with the ChatML
    template and the tokens for fill-in-the-middle.

    When not to use: to continue training an existing model, which needs its own tokenizer.
    Source: Sennrich et al. 2016; Radford et al. 2019 (bytes); the `tokenizers` library does the counting.
    Example:
        >>> BPE(data="split", vocab_size=8192)
        BPE(data='split', ...)
    """

    recipe: ClassVar[str] = "tokenizer.bpe"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "tokenizer"

    data: DatasetRef
    """The split corpus; only its train part is learned from."""
    vocab_size: int | None = Field(None, ge=512, le=262_144)
    """Number of tokens, special ones included. By default from the size of the corpus (12 MB: 8192)."""
    max_sample_bytes: int = Field(200_000_000, ge=1000, le=2_000_000_000)
    """Text to learn from; a larger corpus is sampled by document. Bounds memory to about 10 times this."""
    min_frequency: int = Field(2, ge=1)
    """A merge must have been seen this often."""

    def run(self, run: Run) -> Metrics:
        """Train, save and measure; writes tokenizer.json, tokenizer_config.json and the report."""
        from tokenizers import pre_tokenizers, trainers

        source = run.input("data").path
        is_split = (source / "train").is_dir()
        learned_from, measured_on = ("train", "validation") if is_split else (None, None)
        size = count_bytes(source, learned_from)
        vocab_size = self.vocab_size or auto_vocab_size(min(size, self.max_sample_bytes))
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        raw = empty_tokenizer()
        sampled = _Counted(sample_texts(source, learned_from, size, self.max_sample_bytes))
        run.log(f"learning {vocab_size:,} tokens from {min(size, self.max_sample_bytes) / 1e6:,.1f} MB")
        raw.train_from_iterator(iter(sampled), trainer)
        if not sampled.documents:
            raise BadInput("the sample holds no document", hint="raise --max-sample-bytes")
        run.check_stop()
        save_tokenizer(raw, run.out)
        tokenizer = Tokenizer(raw)
        return _measure(run, tokenizer, source, measured_on, sampled, size)


class _Counted:
    """Texts, counted as they pass."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self.documents = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.documents += 1
            self.bytes += len(text.encode())
            yield text


def auto_vocab_size(size: int) -> int:
    """A vocabulary for `size` bytes of text: a power of two that grows with size^0.4 (Heaps' law), 8192 at 12 MB.

    >>> auto_vocab_size(12_000_000), auto_vocab_size(200_000_000)
    (8192, 32768)
    """
    wanted = 8192 * (max(size, 1) / 12_000_000) ** 0.4
    power: int = 2 ** round(math.log2(wanted))
    return min(max(power, _SMALLEST_VOCABULARY), _LARGEST_VOCABULARY)


def sample_texts(source: Path, split: str | None, size: int, cap: int) -> Iterator[str]:
    """Texts of a split, sampled by a hash of the document's id to about `cap` bytes, and never more than that."""
    threshold = int(min(1.0, cap / max(size, 1)) * 2**32)
    taken = 0
    for batch in read_documents(source, split, columns=["id", "bytes", "text"]):
        for id, length, text in zip(*(batch.column(name) for name in ("id", "bytes", "text")), strict=True):
            if threshold < 2**32 and _hash32(id.as_py()) >= threshold:
                continue
            if taken + length.as_py() > cap:
                continue
            taken += length.as_py()
            yield text.as_py()


def _hash32(id: str) -> int:
    # Not the id's own digits: data.split or a filter may have selected by them already.
    return int.from_bytes(hashlib.sha256(b"tokenizer sample " + id.encode()).digest()[:4], "big")


@dataclass
class _Cost:
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    words: int = 0
    han: int = 0
    inexact: int = 0


def measure(tokenizer: Tokenizer, source: Path, split: str | None) -> dict[str, _Cost]:
    """Tokens, words and Chinese characters of held-out documents, by language."""
    costs: dict[str, _Cost] = defaultdict(_Cost)
    total = 0
    for batch in read_documents(source, split, columns=["language", "bytes", "text"]):
        rows = batch.to_pylist()
        encoded = tokenizer.encode_batch([row["text"] for row in rows])
        for row, ids in zip(rows, encoded, strict=True):
            cost = costs[row["language"]]
            cost.documents += 1
            cost.bytes += row["bytes"]
            cost.tokens += len(ids)
            cost.words += len(row["text"].split())
            cost.han += len(_HAN.findall(row["text"]))
            cost.inexact += tokenizer.decode(ids, skip_special=False) != row["text"]
            total += row["bytes"]
        if total > _MEASURED_BYTES:
            break
    return costs


def _measure(run: Run, tokenizer: Tokenizer, source: Path, split: str | None, sampled: _Counted, size: int) -> Metrics:
    costs = measure(tokenizer, source, split)
    table = Table(
        title="fertility by language",
        columns=[
            "language",
            "documents",
            "bytes",
            "bytes per token",
            "tokens per word",
            "tokens per Chinese character",
        ],
    )
    for language, cost in sorted(costs.items(), key=lambda item: -item[1].bytes):
        # A language without spaces has no words to count, one without Han no characters.
        mostly_han = cost.han > cost.words
        per_word = None if mostly_han or not cost.words else round(cost.tokens / cost.words, 3)
        per_han = round(cost.tokens / cost.han, 3) if mostly_han else None
        table.rows.append(
            [language, cost.documents, cost.bytes, round(cost.bytes / max(cost.tokens, 1), 3), per_word, per_han]
        )
    tokens, inexact = sum(c.tokens for c in costs.values()), sum(c.inexact for c in costs.values())
    documents, measured = sum(c.documents for c in costs.values()), sum(c.bytes for c in costs.values())
    findings = []
    if split is None:
        findings.append(
            Finding(level="warning", text="the corpus is not split: measured on the text it was learned from")
        )
    if inexact:
        findings.append(Finding(level="error", text=f"{inexact} of {documents} documents do not round-trip"))
    scalars: dict[str, float | int] = {
        "vocab_size": tokenizer.vocab_size, "bytes_per_token": round(measured / max(tokens, 1), 4),
        "held_out_documents": documents, "held_out_bytes": measured, "round_trip_failures": inexact,
        "sampled_documents": sampled.documents, "sampled_bytes": sampled.bytes, "train_bytes": size,
    }  # fmt: skip
    Report(
        title="tokenizer.bpe", scalars={name: float(value) for name, value in scalars.items()}, tables=[table],
        findings=findings, samples=[Sample(title=n, prompt=text, text=show(tokenizer, text)) for n, text in _PROBES],
        verdict=f"{tokenizer.vocab_size:,} tokens, {scalars['bytes_per_token']:.2f} bytes per token on {documents:,} "
        f"held-out documents, {documents - inexact:,} of them exactly restored",
    ).save(run.out)  # fmt: skip
    return dict(scalars)


def show(tokenizer: Tokenizer, text: str) -> str:
    """The tokens of a text, separated by `|`, for people to look at."""
    return "|".join(tokenizer.decode([id]) for id in tokenizer.encode(text))

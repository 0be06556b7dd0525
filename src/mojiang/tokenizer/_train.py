"""What every tokenizer trainer shares: the sample it learns from, its alphabet, and the report on unseen text."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mojiang.core.errors import BadInput
from mojiang.core.recipe import Metrics
from mojiang.core.report import Finding, Report, Sample, Table
from mojiang.data._documents import count_bytes, read_documents
from mojiang.tokenizer._others import Reads
from mojiang.tokenizer.load import Tokenizer

if TYPE_CHECKING:
    from mojiang.core.run import Run

_MEASURED_BYTES: Final = 20_000_000  # of held-out text; more would not change a digit
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_SMALLEST_VOCABULARY: Final = 1024
_LARGEST_VOCABULARY: Final = 65536
PROBES: Final = (
    ("en", "The quick brown fox jumps over the lazy dog."),
    ("zh", "春眠不觉晓，处处闻啼鸟。我们的工作是训练语言模型。"),
    ("code", "def add(a: int, b: int) -> int:\n    return a + b\n"),
)


class Corpus:
    """The text to learn from: the train split of a dataset (or all of one that is not split), sampled to a cap.

    Iterating gives the texts and counts them; it may be done several times.
    """

    def __init__(self, source: Path, max_sample_bytes: int) -> None:
        self.source = source
        self.is_split = (source / "train").is_dir()
        self.size = count_bytes(source, self._split)
        self._cap = max_sample_bytes
        self.documents = self.bytes = 0

    @property
    def _split(self) -> str | None:
        return "train" if self.is_split else None

    @property
    def sampled_size(self) -> int:
        """Bytes of text to learn from, about."""
        return min(self.size, self._cap)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[list[str]]:
        """The texts in lists, which the trainers' own code takes with less ado than one at a time."""
        self.documents = self.bytes = 0
        for texts, size in sample_batches(self.source, self._split, self.size, self._cap):
            self.documents += len(texts)
            self.bytes += size
            yield texts

    def check(self) -> None:
        """Raise `BadInput` if the last pass gave nothing."""
        if not self.documents:
            raise BadInput("the sample holds no document", hint="raise --max-sample-bytes")


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
    return chain.from_iterable(texts for texts, _ in sample_batches(source, split, size, cap))


def sample_batches(source: Path, split: str | None, size: int, cap: int) -> Iterator[tuple[list[str], int]]:
    """The same in lists, each with its bytes."""
    threshold = int(min(1.0, cap / max(size, 1)) * 2**32)
    taken = 0
    for batch in read_documents(source, split, columns=["id", "bytes", "text"]):
        columns = (batch.column(name).to_pylist() for name in ("id", "bytes", "text"))
        texts, before = [], taken
        for id, length, text in zip(*columns, strict=True):
            if (threshold < 2**32 and _hash32(id) >= threshold) or taken + length > cap:
                continue
            taken += length
            texts.append(text)
        yield texts, taken - before


def _hash32(id: str) -> int:
    # Not the id's own digits: data.split or a filter may have selected by them already.
    return int.from_bytes(hashlib.sha256(b"tokenizer sample " + id.encode()).digest()[:4], "big")


def alphabet(
    texts: Iterable[str], normalise: Callable[[str], str], coverage: float, most: int, spaces: bool = False
) -> list[str]:
    """The commonest characters that make up a share `coverage` of the normalised text, at most `most`, sorted.

    White space counts with `spaces` only. Ties are broken by code point, so that the same text always gives the same
    alphabet.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalise(text))
    for space in [letter for letter in counts if letter.isspace() and not spaces]:
        del counts[space]
    wanted, covered = coverage * counts.total(), 0
    kept: list[str] = []
    for letter, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        if covered >= wanted or len(kept) >= most:
            break
        covered += count
        kept.append(letter)
    return sorted(kept)


@dataclass
class _Cost:
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    words: int = 0
    han: int = 0
    inexact: int = 0
    unknown: int = 0


def measure(tokenizer: Reads, source: Path, split: str | None, most: int = _MEASURED_BYTES) -> dict[str, _Cost]:
    """Tokens, words and Chinese characters of held-out documents, by language."""
    costs: dict[str, _Cost] = defaultdict(_Cost)
    total = 0
    unknown = tokenizer.special_id("unk")
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
            cost.unknown += 0 if unknown is None else ids.count(unknown)
            total += row["bytes"]
        if total > most:
            break
    return costs


def total_of(costs: dict[str, _Cost]) -> _Cost:
    """The cost of all languages."""
    return _Cost(*(sum(column) for column in zip(*(vars(cost).values() for cost in costs.values()), strict=True)))


def write_report(run: Run, name: str, tokenizer: Tokenizer, corpus: Corpus) -> Metrics:
    """Measure a trained tokenizer on text it has not seen; writes the report and returns the metrics.

    A byte-level tokenizer must restore every document; of the others it is asked how much they cannot write.
    """
    exact = tokenizer.kind == "byte-level"
    costs = measure(tokenizer, corpus.source, "validation" if corpus.is_split else None)
    total = total_of(costs)
    findings = []
    if not corpus.is_split:
        text = "the corpus is not split: measured on the text it was learned from"
        findings.append(Finding(level="warning", text=text))
    if exact and total.inexact:
        text = f"{total.inexact} of {total.documents} documents do not round-trip"
        findings.append(Finding(level="error", text=text))
    scalars: dict[str, float | int] = {
        "vocab_size": tokenizer.vocab_size, "bytes_per_token": round(total.bytes / max(total.tokens, 1), 4),
        "held_out_documents": total.documents, "held_out_bytes": total.bytes,
        **({"round_trip_failures": total.inexact} if exact else _unknown_share(total)),
        "sampled_documents": corpus.documents, "sampled_bytes": corpus.bytes, "train_bytes": corpus.size,
    }  # fmt: skip
    restored = f"{total.documents - total.inexact:,} of them exactly restored"
    quality = restored if exact else f"{_unknown_share(total)['unknown_share']:.3%} of the tokens unknown"
    Report(
        title=name, scalars={name: float(value) for name, value in scalars.items()}, tables=[_fertility(costs)],
        findings=findings, samples=[Sample(title=n, prompt=text, text=show(tokenizer, text)) for n, text in PROBES],
        verdict=f"{tokenizer.vocab_size:,} tokens, {scalars['bytes_per_token']:.2f} bytes per token on "
        f"{total.documents:,} held-out documents, {quality}",
    ).save(run.out)  # fmt: skip
    return dict(scalars)


def _unknown_share(total: _Cost) -> dict[str, float | int]:
    return {"unknown_share": round(total.unknown / max(total.tokens, 1), 6)}


def _fertility(costs: dict[str, _Cost]) -> Table:
    columns = ["language", "documents", "bytes", "bytes per token", "tokens per word", "tokens per Chinese character"]
    table = Table(title="fertility by language", columns=columns)
    for language, cost in sorted(costs.items(), key=lambda item: -item[1].bytes):
        # A language without spaces has no words to count, one without Han no characters.
        mostly_han = cost.han > cost.words
        per_word = None if mostly_han or not cost.words else round(cost.tokens / cost.words, 3)
        per_han = round(cost.tokens / cost.han, 3) if mostly_han else None
        table.rows.append(
            [language, cost.documents, cost.bytes, round(cost.bytes / max(cost.tokens, 1), 3), per_word, per_han]
        )
    return table


def show(tokenizer: Tokenizer, text: str) -> str:
    """The tokens of a text, separated by `|`, for people to look at."""
    return "|".join(tokenizer.decode([id]) for id in tokenizer.encode(text))

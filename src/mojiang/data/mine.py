"""Instruction pairs from the corpus itself: what a text says about itself becomes the question, the text the answer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pyarrow as pa
from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Finding, Report, Sample, Table
from mojiang.data._documents import SPLITS, ShardWriter, read_shards, shard_paths
from mojiang.data._forms import plain
from mojiang.data._mapping import map_batches
from mojiang.data._pairs import Pair, pairs_of

if TYPE_CHECKING:
    from mojiang.core.run import Run

_MESSAGE: Final = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
CONVERSATIONS_SCHEMA: Final = pa.schema(
    [
        pa.field("messages", pa.list_(_MESSAGE), nullable=False),
        pa.field("language", pa.string(), nullable=False),  # of the instruction: "en" or "zh"
        pa.field("source", pa.string(), nullable=False),  # id of the document it was mined from
        pa.field("kind", pa.string(), nullable=False),  # see Pair
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
_SAMPLES_PER_KIND: Final = 2


class Mine(Recipe):
    """Mine instruction pairs from a split corpus, each split by itself.

    Python gives "write the function with this signature and docstring" and "what does this function do"; Markdown,
    reStructuredText and HTML give heading → section; prose without headings gives its opening → how it goes on. The
    instruction is in the language of the document, English or Chinese.

    When not to use: when there are real conversations; mined pairs teach the form of answering and the corpus's facts,
    not helpfulness.
    Source: Köksal et al. 2023, "LongForm" (reverse instructions), here without a model.
    Example:
        >>> Mine(data="split", max_answer_bytes=800)
        Mine(data='split', ...)
    """

    recipe: ClassVar[str] = "data.mine"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The split corpus."""
    max_prompt_bytes: int = Field(1200, ge=50)
    """Longer instructions are left out."""
    min_answer_bytes: int = Field(24, ge=1)
    """Shorter answers are left out."""
    max_answer_bytes: int = Field(1600, ge=50)
    """Longer answers are cut at the end of a paragraph or sentence if they are prose, and left out if they are code."""
    max_pairs_per_document: int = Field(40, ge=1)
    """So that one long document does not outweigh all others."""

    def run(self, run: Run) -> Metrics:
        """Write conversations-*.parquet for each split and the report."""
        source = run.input("data").path
        limits = Limits(
            self.max_prompt_bytes, self.min_answer_bytes, self.max_answer_bytes, self.max_pairs_per_document
        )
        seen: set[bytes] = set()  # 16 bytes for each pair; across splits, so that no answer is trained and tested on
        books = _Books()
        # The held-out splits first: a pair that is in two of them is worth more where things are measured.
        for split in reversed(SPLITS):
            with ShardWriter(run.out / split, "conversations", CONVERSATIONS_SCHEMA) as writer:
                for mined in map_batches(run, partial(mine_batch, limits), source, split):
                    books.documents += mined.documents
                    books.left_out += mined.left_out
                    _write(mined.pairs, split, seen, writer, books)
                    run.check_stop()
        if not books.per_split["train"]:
            raise BadInput(
                f"no instruction pair could be mined from {books.documents:,} documents: {_listing(books.left_out)}",
                hint="raise --max-answer-bytes or lower --min-answer-bytes, or give a corpus with prose or Python",
            )
        return books.save(run.out)


@dataclass(frozen=True)
class Limits:
    """The fields of `Mine` a worker needs."""

    max_prompt_bytes: int = 1200
    min_answer_bytes: int = 24
    max_answer_bytes: int = 1600
    max_pairs_per_document: int = 40


@dataclass
class Mined:
    """What one batch gave: pairs with the id of their document, and how many were left out by which limit."""

    documents: int
    pairs: list[tuple[str, Pair]]
    left_out: Counter[str]


class _Books:
    def __init__(self) -> None:
        self.documents = 0
        self.left_out: Counter[str] = Counter()
        self.per_split: Counter[str] = Counter()
        self.per_kind: Counter[tuple[str, str]] = Counter()
        self.bytes = 0
        self.samples: dict[tuple[str, str], list[Sample]] = {}

    def save(self, folder: Path) -> Metrics:
        total = sum(self.per_split.values())
        kinds = Table(title="pairs by kind and language", columns=["kind", "language", "pairs"])
        kinds.rows.extend([kind, language, count] for (kind, language), count in sorted(self.per_kind.items()))
        splits = Table(title="pairs by split", columns=["split", "pairs"])
        splits.rows.extend([name, self.per_split[name]] for name in SPLITS)
        left = Table(title="left out", columns=["reason", "pairs"])
        left.rows.extend([reason, count] for reason, count in self.left_out.most_common())
        findings = []
        if not self.per_split["validation"]:
            findings.append(Finding(level="warning", text="the validation documents gave no pair"))
        Report(
            title="data.mine", tables=[kinds, splits, left], findings=findings,
            scalars={"documents": float(self.documents), "pairs": float(total), "bytes": float(self.bytes),
                     "pairs_found": float(total + sum(self.left_out.values()))},
            samples=[sample for group in self.samples.values() for sample in group],
            verdict=f"{total:,} instruction pairs from {self.documents:,} documents",
        ).save(folder)  # fmt: skip
        return {"pairs": total, "documents": self.documents, "bytes": self.bytes,
                **{f"{name}_pairs": self.per_split[name] for name in SPLITS}}  # fmt: skip


def mine_batch(limits: Limits, batch: pa.RecordBatch) -> Mined:
    """The pairs of a batch of documents, within the limits."""
    left_out: Counter[str] = Counter()
    pairs: list[tuple[str, Pair]] = []
    for row in batch.select(["id", "path", "language", "format", "text"]).to_pylist():
        found = 0
        for pair in pairs_of(row, limits.max_answer_bytes):
            if reason := _over_limit(pair, limits):
                left_out[reason] += 1
            elif found >= limits.max_pairs_per_document:
                left_out["enough from this document"] += 1
            else:
                pairs.append((row["id"], pair))
                found += 1
    return Mined(batch.num_rows, pairs, left_out)


def _over_limit(pair: Pair, limits: Limits) -> str:
    prompt, answer = len(pair.prompt.encode()), len(pair.answer.encode())
    if prompt > limits.max_prompt_bytes:
        return "instruction too long"
    if answer < limits.min_answer_bytes:
        return "answer too short"
    return "answer too long" if answer > limits.max_answer_bytes else ""


def _write(pairs: list[tuple[str, Pair]], split: str, seen: set[bytes], writer: ShardWriter, books: _Books) -> None:
    for id, pair in pairs:
        key = hashlib.sha256(f"{pair.prompt}\0{pair.answer}".encode()).digest()[:16]
        if key in seen:
            books.left_out["same as another pair"] += 1
            continue
        seen.add(key)
        size = len(pair.prompt.encode()) + len(pair.answer.encode())
        messages = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.answer}]
        writer.add({"messages": messages, "language": pair.language, "source": id, "kind": pair.kind, "bytes": size})
        books.per_split[split] += 1
        books.per_kind[pair.kind, pair.language] += 1
        books.bytes += size
        samples = books.samples.setdefault((pair.kind, pair.language), [])
        if len(samples) < _SAMPLES_PER_KIND:
            samples.append(Sample(title=f"{pair.kind} ({pair.language})", prompt=pair.prompt, text=pair.answer))


def _listing(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "none was found"


def read_conversations(path: Path, split: str) -> Iterator[dict[str, Any]]:
    """Stream conversations, mined or read from files: {"messages": [{"role", "content"}, …], "language", "kind", …}.

    A split that exists but gave no pair is empty; a folder that is no conversation data set raises BadInput.
    """
    if (path / split).is_dir() and not any((path / split).iterdir()):
        return
    for batch in read_shards(shard_paths(path, split, "conversations")):
        yield from map(plain, batch.to_pylist())

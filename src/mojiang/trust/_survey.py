"""One pass over a dataset: what is counted of every document, and what is found in those of the sample.

A document is in the sample when the hash of its id is among the smallest: uniformly random, the same in every re-run,
and no worker has to know of another.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.files import remove_tree
from mojiang.data._documents import SPLITS, RowGroup, read_shards, row_groups, shard_exists, shard_paths
from mojiang.data._exact import ENTRY, find_copies, hash_batch, hashes_of
from mojiang.data._forms import FORMS
from mojiang.data.examples import forms_in
from mojiang.trust._examine import Examined, Plan, examine
from mojiang.trust._hidden import hints

if TYPE_CHECKING:
    from mojiang.core.run import Run

SAMPLE_BYTES: Final = 64 * 2**20
"""Text that is looked at closely, at most; the rules judge about a megabyte a second."""
DIMENSIONS: Final = ("language", "format", "source", "licence", "split")
HINTS_SHOWN: Final = 3
_KEYS: Final = 2**64
_MOST_LABELS: Final = 1000  # different ones that are counted


@dataclass
class Size:
    """Documents, their bytes of UTF-8 and their characters."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0

    def add(self, other: Size) -> None:
        """Count these too."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.characters += other.characters


def _sizes() -> dict[str, defaultdict[str, Size]]:
    return {name: defaultdict(Size) for name in DIMENSIONS}


@dataclass
class Survey:
    """What was counted, and the documents of the sample."""

    form: str
    total: Size = field(default_factory=Size)
    by: dict[str, defaultdict[str, Size]] = field(default_factory=_sizes)
    origins: defaultdict[tuple[str, str], Size] = field(default_factory=partial(defaultdict, Size))
    """By source and licence."""
    lengths: defaultdict[str, Counter[int]] = field(default_factory=partial(defaultdict, Counter))
    """By language: how many documents have so many characters, to three digits."""
    labels: defaultdict[str, Counter[str]] = field(default_factory=partial(defaultdict, Counter))
    """By label: how many in each split."""
    hinted: Counter[str] = field(default_factory=Counter)
    """Documents in which something of a kind is hidden."""
    hints: defaultdict[str, list[tuple[str, str]]] = field(default_factory=partial(defaultdict, list))
    """By kind a few: (path, excerpt)."""
    sample: list[Examined] = field(default_factory=list)
    copies: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Orders of the documents that are not the first with their content."""
    copy_bytes: int = 0

    def absorb(self, other: Survey) -> None:
        """Add what another part of the dataset gave."""
        self.total.add(other.total)
        for name, groups in other.by.items():
            for value, size in groups.items():
                self.by[name][value].add(size)
        for pair, size in other.origins.items():
            self.origins[pair].add(size)
        for language, lengths in other.lengths.items():
            self.lengths[language].update(lengths)
        for label, splits in other.labels.items():
            if label in self.labels or len(self.labels) < _MOST_LABELS:
                self.labels[label].update(splits)
        self.hinted.update(other.hinted)
        for kind, shown in other.hints.items():
            self.hints[kind].extend(shown[: HINTS_SHOWN - len(self.hints[kind])])
        self.sample.extend(other.sample)

    def every_length(self) -> Counter[int]:
        """Lengths of all languages together."""
        return sum(self.lengths.values(), Counter())


def form_of(dataset: Artifact) -> str:
    """What a dataset holds: documents, or a form of examples.

    Raises:
        BadInput: it holds neither, as token shards and vectors do.
    """
    if any(shard_exists(folder) for folder in (dataset.path, *(dataset.path / split for split in SPLITS))):
        return "documents"
    if found := forms_in(dataset.path):
        return found[0]
    raise BadInput(
        f"{dataset.ref} holds no documents and no examples; it was made by {dataset.recipe}",
        hint=f"give the dataset it was made from; `mojiang lineage {dataset.ref}` names it",
    )


def survey(run: Run, dataset: Artifact, sample: int, near_topics: int, given: dict[str, Path]) -> Survey:
    """Go through a dataset once, on the run's engine; the sample is `sample` documents, in the order of their keys."""
    form = form_of(dataset)
    groups = list(row_groups(dataset.path, prefix=form))
    rows = sum(group.rows for group in groups)
    wanted = _affordable(dataset.path, form, rows, sample)
    plan = Plan(form, _threshold(wanted, rows), _threshold(min(wanted, near_topics), rows), **given)
    remove_tree(run.scratch / "hashes")  # of a run that was stopped: its counts are gone too
    spill, done, found = hashes_of(run, rows), 0, Survey(form)
    for part, entries, count in run.engine.map(partial(survey_group, plan, dataset.recipe), groups):
        found.absorb(part)
        entries["order"] += np.uint64(done)
        spill.scatter(entries["low"].astype(np.uint64) % np.uint64(spill.buckets), entries)
        done += count
        run.progress(done, rows, unit="documents")
        run.check_stop()
    found.sample = sorted(found.sample, key=lambda one: one.key)[:wanted]
    copies = find_copies(spill)["order"] if form != "images" else np.zeros(0, np.int64)
    found.copies, found.copy_bytes = copies, _bytes_at(dataset.path, form, copies)
    return found


def _affordable(path: Path, form: str, rows: int, sample: int) -> int:
    """How many documents the sample can have within its budget of text."""
    size = sum(
        pc.sum(batch.column("bytes")).as_py() or 0 for batch in read_shards(shard_paths(path, None, form), ["bytes"])
    )
    return max(1, min(sample, rows, int(SAMPLE_BYTES * rows / max(1, size))))


def _threshold(wanted: int, rows: int) -> int:
    """Keys below this are `wanted` of `rows` or, all but surely, a few more; none if none are wanted."""
    if wanted == 0:
        return 0
    return _KEYS if wanted >= rows else int(min(1.0, (wanted + 5 * math.sqrt(wanted) + 10) / rows) * _KEYS)


def _bytes_at(path: Path, form: str, orders: npt.NDArray[np.int64]) -> int:
    first = total = 0
    for batch in read_shards(shard_paths(path, None, form), ["bytes"]):
        low, high = np.searchsorted(orders, [first, first + batch.num_rows])
        total += int(batch.column("bytes").to_numpy()[orders[low:high] - first].sum())
        first += batch.num_rows
    return total


def key_of(id: str) -> int:
    """A uniform 64-bit number that depends on the id alone."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big")


# -- in the workers -----------------------------------------------------------------------------------------------


def survey_group(plan: Plan, recipe: str, group: RowGroup) -> tuple[Survey, npt.NDArray[np.void], int]:
    """What one row group gives: counts and sample, content hashes for exact copies, and how many rows it has."""
    split = group.shard.parent.name if group.shard.parent.name in SPLITS else ""
    part = Survey(plan.form)
    ids, texts = [], []
    for row, text in _rows(plan.form, recipe, group):
        ids.append(row["id"])
        texts.append(text)
        _count(part, row, text, split, FORMS[plan.form].labels)
        if plan.form != "images":
            for hint in hints(text):
                part.hinted[hint.kind] += 1
                if len(part.hints[hint.kind]) < HINTS_SHOWN:
                    part.hints[hint.kind].append((row["path"], hint.excerpt))
        if (key := key_of(row["id"])) < plan.below:
            part.sample.append(examine(plan, row, text, key, split))
    if plan.form == "images":
        return part, np.zeros(0, ENTRY), len(ids)
    batch = pa.record_batch({"id": ids, "text": pa.array(texts, pa.large_string())})
    return part, hash_batch(batch), len(ids)


def _rows(form: str, recipe: str, group: RowGroup) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows with all that is known of a document, and everything a reader sees of each."""
    if form == "images":  # nothing here looks at a picture
        names = [name for name in pq.read_schema(group.shard).names if name != "image"]
        group = replace(group, columns=tuple(names))
    for row in group.read().to_pylist():
        text = FORMS[form].text(row)
        # What was mined from documents says neither who it is nor under which licence.
        row.setdefault("id", hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest())
        row.setdefault("path", row["id"])
        row.setdefault("licence", "unknown")
        row.setdefault("format", form)
        row["source"] = row.get("origin", row["source"] if form == "documents" else recipe)
        yield row, text


def _count(part: Survey, row: dict[str, Any], text: str, split: str, labels: Any) -> None:
    size = Size(1, row["bytes"], len(text))
    part.total.add(size)
    for name in DIMENSIONS:
        value = split if name == "split" else row[name]
        if value:
            part.by[name][value].add(size)
    part.origins[row["source"], row["licence"]].add(size)
    part.lengths[row["language"]][rounded(len(text))] += 1
    for label in labels(row) if labels else ():
        part.labels[str(label)][split] += 1


def rounded(number: int) -> int:
    """A number to three digits: a few thousand different ones whatever the corpus, and quantiles right to 0.5 %.

    >>> rounded(123456), rounded(999), rounded(0)
    (123000, 999, 0)
    """
    if number < 1000:
        return number
    scale = int(10 ** (len(str(number)) - 3))
    return (number + scale // 2) // scale * scale


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that at least this share of the counted is not above.

    >>> quantile(Counter({1: 5, 2: 4, 30: 1}), 0.5), quantile(Counter({1: 5, 2: 4, 30: 1}), 0.95)
    (1, 30)
    """
    goal, seen, last = share * counts.total(), 0, 0
    for last in sorted(counts):
        seen += counts[last]
        if seen >= goal:
            break
    return last

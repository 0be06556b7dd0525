"""Row accounting: every document that enters a step leaves it, kept or dropped with a reason, and the numbers add up.

A step counts into an `Accounting`; `finish` writes `drops-*.parquet` (which documents, and why) and `report.json`
(how many, how large, of which language, format and licence). `why_dropped` reads them back along a chain of steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Finding, Report, Table
from mojiang.data._documents import ShardWriter, read_shards

DROPS_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
COMPOSITION: Final = ("language", "format", "licence")
_BESIDE: Final = ("drops-", "matches-", "origins-", "pages-", "pii-", "clusters-")  # tables about rows, not rows
EXAMPLES_SHOWN: Final = 3  # of each change, in the report
_AROUND: Final = 20  # characters shown before and after what changed
_LARGEST_GROUPS: Final = 40  # rows of a composition table; the tail is summed up in one more


@dataclass(frozen=True)
class Drop:
    """A document that a step did not keep."""

    id: str
    path: str
    reason: str
    detail: str
    bytes: int


@dataclass(frozen=True)
class Fate:
    """What one step did with a document: `outcome` is "kept", "dropped" or "not seen"."""

    step: str
    id: str
    path: str
    outcome: str
    reason: str = ""
    detail: str = ""


@dataclass
class Tally:
    """Documents and bytes."""

    documents: int = 0
    bytes: int = 0

    def add(self, size: int, documents: int = 1) -> None:
        """Count `documents` more, of `size` bytes together."""
        self.documents += documents
        self.bytes += size


class Changes(Counter[str]):
    """What a step did to texts: how often each change was made, and a few places where it was, before and after."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.document = ""  # path of the document at hand
        self.examples: dict[str, list[tuple[str, str, str]]] = {}

    def note(self, change: str, before: str = "", after: str = "", count: int = 1) -> None:
        """Count a change; the first few are kept as examples: (document, before, after)."""
        self[change] += count
        shown = self.examples.setdefault(change, [])
        if before != after and len(shown) < EXAMPLES_SHOWN:
            shown.append((self.document, *excerpt(before, after)))

    def absorb(self, other: Counter[str]) -> None:
        """Add the counts of another, and its examples where there is room."""
        self.update(other)
        for change, found in getattr(other, "examples", {}).items():
            shown = self.examples.setdefault(change, [])
            shown.extend(found[: EXAMPLES_SHOWN - len(shown)])

    def __reduce__(self) -> tuple[Any, ...]:
        # A Counter pickles its counts alone; workers send the examples back too.
        return _changes, (dict(self), self.examples)


def _changes(counts: dict[str, int], examples: dict[str, list[tuple[str, str, str]]]) -> Changes:
    made = Changes(counts)
    made.examples = examples
    return made


def excerpt(before: str, after: str) -> tuple[str, str]:
    """The first place where two texts differ, with a little of what is around it; what cannot be seen is escaped.

    >>> excerpt("one\\r\\ntwo", "one\\ntwo")
    ('one\\\\r\\\\ntwo', 'one\\\\ntwo')
    """
    start = len(commonprefix([before, after]))
    end = len(commonprefix([before[start:][::-1], after[start:][::-1]]))
    return _visible(before, start, len(before) - end), _visible(after, start, len(after) - end)


def _visible(text: str, start: int, end: int) -> str:
    low, high = max(0, start - _AROUND), min(len(text), end + _AROUND, start + 6 * _AROUND)
    part = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[low:high])
    return "…" * (low > 0) + part + "…" * (high < len(text))


@dataclass
class Accounting:
    """Counts of one step. Use it as a context manager around the step; `finish` closes the books.

    `bytes_in` is what came in as UTF-8 text (for data.load: the kept text plus the sizes of what was left out), so that
    documents_in = kept + dropped, and bytes_in = kept + dropped + removed, where removed is what cleaning cut away
    (negative when a step made texts longer).
    """

    folder: Path
    title: str
    documents: Tally = field(default_factory=Tally)
    kept: Tally = field(default_factory=Tally)
    dropped: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    changes: Changes = field(default_factory=Changes)
    composition: dict[str, dict[str, Tally]] = field(
        default_factory=lambda: {name: defaultdict(Tally) for name in COMPOSITION}
    )
    findings: list[Finding] = field(default_factory=list)

    def __enter__(self) -> Accounting:
        self._drops = ShardWriter(self.folder, "drops", DROPS_SCHEMA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drops.__exit__(kind, error, trace)

    def saw(self, size: int, documents: int = 1) -> None:
        """Documents that came in, with their size before the step."""
        self.documents.add(size, documents)

    def keep(self, row: Mapping[str, Any]) -> None:
        """A document that stays, with its size after the step."""
        size = int(row["bytes"])
        self.kept.add(size)
        for name, groups in self.composition.items():
            groups[row[name]].add(size)

    def keep_batch(self, batch: pa.RecordBatch) -> None:
        """The documents of a batch stay."""
        self.kept.add(int(pc.sum(batch.column("bytes")).as_py() or 0), batch.num_rows)
        table = pa.Table.from_batches([batch.select(["bytes", *COMPOSITION])])
        for name, groups in self.composition.items():
            grouped = table.group_by(name, use_threads=False).aggregate([("bytes", "sum"), ("bytes", "count")])
            for row in grouped.to_pylist():
                groups[row[name]].add(row["bytes_sum"], row["bytes_count"])

    def drop(self, drop: Drop) -> None:
        """A document that goes; it must have been `saw` too."""
        self.dropped[drop.reason].add(drop.bytes)
        self._drops.add(
            {"id": drop.id, "path": drop.path, "reason": drop.reason, "detail": drop.detail[:500], "bytes": drop.bytes}
        )

    def tallies(self) -> dict[str, Any]:
        """The counts so far, to be added to other books."""
        names = ("documents", "kept", "dropped", "changes", "composition", "findings")
        return {name: getattr(self, name) for name in names}

    def absorb(self, tallies: Mapping[str, Any], folder: Path) -> None:
        """Add the counts of other books, and the drops that they wrote to `folder`."""
        for ours, theirs in ((self.documents, tallies["documents"]), (self.kept, tallies["kept"])):
            ours.add(theirs.bytes, theirs.documents)
        groups = {"dropped": (self.dropped, tallies["dropped"])}
        groups |= {name: (self.composition[name], tallies["composition"][name]) for name in COMPOSITION}
        for ours_by, theirs_by in groups.values():
            for key, tally in theirs_by.items():
                ours_by[key].add(tally.bytes, tally.documents)
        self.changes.absorb(tallies["changes"])
        self.findings += tallies["findings"]
        self._drops.adopt(folder)

    def scalars(self) -> dict[str, int]:
        """The totals."""
        gone = Tally(
            sum(tally.documents for tally in self.dropped.values()), sum(tally.bytes for tally in self.dropped.values())
        )
        return {
            "documents_in": self.documents.documents,
            "documents_kept": self.kept.documents,
            "documents_dropped": gone.documents,
            "bytes_in": self.documents.bytes,
            "bytes_kept": self.kept.bytes,
            "bytes_dropped": gone.bytes,
            "bytes_removed": self.documents.bytes - self.kept.bytes - gone.bytes,
        }

    def finish(self, verdict: str = "", tables: Sequence[Table] = ()) -> dict[str, float | int | str]:
        """Write drops and report; returns the metrics for the manifest.

        Raises:
            AssertionError: the numbers do not add up, which is a mistake in the step.
        """
        self._drops.close()
        totals = self.scalars()
        if totals["documents_in"] != totals["documents_kept"] + totals["documents_dropped"]:
            raise AssertionError(f"{self.title}: the documents do not add up: {totals}")
        every = [
            _table("dropped by reason", "reason", self.dropped),
            *(_table(f"kept by {name}", name, groups) for name, groups in self.composition.items()),
            Table(title="changes", columns=["change", "count"], rows=[[k, v] for k, v in sorted(self.changes.items())]),
            Table(
                title="changes, before and after",
                columns=["change", "document", "before", "after"],
                rows=[[name, *shown] for name, found in sorted(self.changes.examples.items()) for shown in found],
            ),
            *tables,
        ]
        said = verdict or (
            f"{totals['documents_kept']:,} of {totals['documents_in']:,} documents kept "
            f"({totals['bytes_kept'] / 1e6:,.2f} MB)"
        )
        Report(
            title=self.title, scalars={k: float(v) for k, v in totals.items()}, tables=[t for t in every if t.rows],
            findings=self.findings, verdict=said,
        ).save(self.folder)  # fmt: skip
        return dict(totals)

    def refuse_nothing(self, hint: str) -> None:
        """An empty corpus is found here, and not by whoever reads it next.

        Raises:
            BadInput: no document was kept.
        """
        if not self.kept.documents:
            reasons = ", ".join(f"{tally.documents:,} {reason}" for reason, tally in self.dropped.items())
            raise BadInput(f"nothing is left of the corpus: {reasons or 'it was empty'}", hint=hint)

    def find(self, level: Literal["info", "warning", "error"], text: str) -> None:
        """Add a sentence the reader should not miss."""
        self.findings.append(Finding(level=level, text=text))


def _table(title: str, column: str, groups: Mapping[str, Tally]) -> Table:
    ranked = sorted(groups.items(), key=lambda item: (-item[1].bytes, item[0]))
    rows: list[list[str | int | float | None]] = [[n, t.documents, t.bytes] for n, t in ranked[:_LARGEST_GROUPS]]
    if rest := [tally for _, tally in ranked[_LARGEST_GROUPS:]]:
        rows.append([f"{len(rest)} more", sum(t.documents for t in rest), sum(t.bytes for t in rest)])
    return Table(title=title, columns=[column, "documents", "bytes"], rows=rows)


def why_dropped(artifacts: Iterable[Artifact], document: str) -> list[Fate]:
    """Follow a document through data steps: at which one, and why, was it dropped, or was it kept to the end?

    Args:
        artifacts: data artifacts in the order they were made, the oldest first; others in between are passed over.
        document: an id (or its first 8 digits or more), a path, or the path of a file, which means all its parts.

    Returns:
        One `Fate` for each step and matching document; "not seen" once for a step that never met it.
    """
    fates: list[Fate] = []
    for artifact in artifacts:
        if artifact.kind != "dataset":
            continue
        step = f"{artifact.recipe} ({artifact.ref})"
        dropped, kept = _drops(artifact, document), _kept(artifact, document)
        found = [Fate(step, row["id"], row["path"], "dropped", row["reason"], row["detail"]) for row in dropped]
        found += [Fate(step, row["id"], row["path"], "kept", row["where"]) for row in kept]
        fates += found or [Fate(step, "", document, "not seen")]
    return fates


def _matching(batch: pa.RecordBatch, document: str) -> list[dict[str, Any]]:
    path, id = batch.column("path"), batch.column("id")
    match = pc.or_(pc.equal(path, document), pc.starts_with(path, document + "#"))
    if len(document) >= 8 and all(c in "0123456789abcdef" for c in document):
        match = pc.or_(match, pc.starts_with(id, document))
    return list(batch.filter(match).to_pylist())


def _drops(artifact: Artifact, document: str) -> list[dict[str, Any]]:
    shards = sorted(artifact.path.glob("drops-*.parquet"))
    rows = [row for batch in read_shards(shards) for row in _matching(batch, document)]
    if rows or not shards:
        return rows
    # A folder that was not entered stands for everything below it.
    above = {document.rsplit("/", n)[0] + "/" for n in range(1, document.count("/") + 1)}
    return [row for batch in read_shards(shards) for row in batch.to_pylist() if row["path"] in above]


def _kept(artifact: Artifact, document: str) -> list[dict[str, Any]]:
    rows = []
    for shard in sorted(artifact.path.rglob("*-[0-9]*.parquet")):
        if shard.name.startswith(_BESIDE) or not {"id", "path"} <= set(pq.read_schema(shard).names):
            continue  # what was dropped, or conversations, which are mined from documents and have no path
        where = shard.parent.name if shard.parent != artifact.path else ""
        for batch in read_shards([shard], columns=["id", "path"]):
            rows += [{**row, "where": where} for row in _matching(batch, document)]
    return rows

"""From records to a dataset of examples: same for the user's files and for fetched ones.

Rows are written to the run's scratch folder first, with 49 bytes for each in memory: hashes of what it is, of what must
stay in one split with it and of its label. These decide about copies, conflicts and splits before anything is kept, so
that neither depends on the order of the rows.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mojiang.core.errors import BadInput
from mojiang.core.files import remove_tree
from mojiang.core.recipe import Metrics
from mojiang.core.report import Report, Sample, Table
from mojiang.data._accounting import Accounting, Drop, Tally
from mojiang.data._documents import SPLITS, ShardWriter, document_id, read_shards, shard_paths
from mojiang.data._formats import Notes
from mojiang.data._forms import FORMS, Fields, Form, Row, Unusable, has_tools, keys_of, schema_of, size_of
from mojiang.data._language import UNKNOWN as NO_LANGUAGE
from mojiang.data._language import identify
from mojiang.data._records import Record, read_records
from mojiang.data._sources import Source
from mojiang.data.split import assign, choose_edges

if TYPE_CHECKING:
    from mojiang.core.run import Run

_KEY: Final = np.dtype([("same", "V16"), ("group", ">u8"), ("label", ">u8"), ("id", "V16"), ("given", "i1")])
_KEPT, _COPY, _LEAK, _CONFLICT, _TOO_MANY = range(5)
_REASONS: Final = ("", "exact-copy", "copy-of-held-out", "label-conflict", "over-max-examples")
_RANGE: Final = 2**64
_LABELS_SHOWN: Final = 60
_SAMPLES: Final = 3
_CHECK_EVERY: Final = 1000  # rows between two looks at whether the user wants to stop

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Policy:
    """What a dataset is made with; see the fields of `data.examples`."""

    form: str
    origin: str
    columns: Mapping[str, str] = field(default_factory=dict)
    dedup: bool = True
    conflicts: Literal["drop", "first"] = "drop"
    own_splits: bool = True
    validation: float = 0.05
    test: float = 0.05
    max_examples: int | None = None
    licence: str = "unknown"
    language: str | None = None


@dataclass
class _Spool:
    """Rows on disk and what has to be known of all of them."""

    folder: Path
    keys: Array
    tools: bool = False


def make_examples(
    run: Run, items: Iterable[Record | Drop], policy: Policy, title: str, tables: Sequence[Table] = (), note: str = ""
) -> Metrics:
    """Write `FORM-*.parquet` for each split, the drops and the report; returns the metrics.

    Raises:
        BadInput: no record could be used, with what was in the source instead.
    """
    form = FORMS[policy.form]
    composition: dict[str, dict[str, Tally]] = {name: defaultdict(Tally) for name in ("split", "language", "licence")}
    with Accounting(run.out, title, composition=composition) as books:
        if note:
            books.find("info", note)
        spool = _spool(run, items, policy, books)
        if not len(spool.keys):
            raise _nothing(policy, books)
        if policy.own_splits and not _has_own_train(spool.keys) and spool.keys["given"].max() > 0:
            books.find("warning", "the files' names give no training split, so the splits were made by content hash")
        reasons, firsts, splits = decide(spool.keys, policy)
        if not (reasons == _KEPT).any():
            raise _nothing_left(policy, reasons)
        summary = _write(run, spool, policy, books, (reasons, firsts, splits))
        return summary.finish(run, books, form, tables)


# -- first pass: records, rows and their keys ---------------------------------------------------------------------


def records_in(source: Source, policy: Policy, notes: Notes) -> Iterator[Record | Drop]:
    """Every record of every file of a source, and every file that gives none."""
    for missed in source.missed:
        id = document_id(policy.origin, missed.name, 0)
        yield Drop(id, missed.name, missed.reason, missed.detail, missed.bytes)
    for file in source.files:
        for item in read_records(file, policy.form, policy.columns, notes):
            if isinstance(item, Record):
                yield Record(item.file, item.part, item.value, item.split, item.licence or file.licence)
            else:
                path = f"{file.name}#{item.part}" if item.part else file.name
                id = document_id(policy.origin, file.name, item.part or 0)
                yield Drop(id, path, item.reason, item.detail, item.bytes)


def _spool(run: Run, items: Iterable[Record | Drop], policy: Policy, books: Accounting) -> _Spool:
    form, keys, tools = FORMS[policy.form], bytearray(), False
    folder = run.scratch / "rows"
    remove_tree(folder)  # of a run that was stopped
    with ShardWriter(folder, policy.form, schema_of(policy.form, tools=True)) as writer:
        for number, item in enumerate(items):
            if number % _CHECK_EVERY == 0:
                run.check_stop()
            made = item if isinstance(item, Drop) else _row(item, policy, form)
            books.saw(made.bytes if isinstance(made, Drop) else made["bytes"])
            if isinstance(made, Drop):
                books.drop(made)
                continue
            tools = tools or has_tools(made)
            given, together = (item.split, item.together) if isinstance(item, Record) else ("", "")
            split = SPLITS.index(given) if given else -1
            hashes = keys_of(form, made, together)
            keys += b"".join((*hashes, bytes.fromhex(made["id"]), split.to_bytes(1, "big", signed=True)))
            writer.add(made)
    return _Spool(folder, np.frombuffer(bytes(keys), _KEY), tools)


def _row(record: Record, policy: Policy, form: Form) -> Row | Drop:
    id = document_id(policy.origin, record.file, record.part or 0)
    value = {"messages": record.value} if isinstance(record.value, list) else record.value
    try:
        if not isinstance(value, Mapping):
            raise Unusable("not-a-record", f"{type(value).__name__}: {str(value)[:100]}")
        row = form.build(Fields(value, policy.columns, form.aliases))
    except Unusable as error:
        return Drop(id, record.path, error.reason, error.detail, len(str(value).encode("utf-8", "replace")))
    said = next((v for key in ("licence", "license") if isinstance(v := value.get(key), str) and v), None)
    text = form.text(row)
    return {
        "id": id, "path": record.path, "origin": policy.origin, "licence": said or record.licence or policy.licence,
        "language": policy.language or (identify(text) if text else NO_LANGUAGE), "bytes": size_of(form, row),
        **({"source": policy.origin} if policy.form == "documents" else {}), **row,
    }  # fmt: skip


# -- decisions ----------------------------------------------------------------------------------------------------


def _has_own_train(keys: Array) -> bool:
    return bool((keys["given"] == SPLITS.index("train")).any())


def decide(keys: Array, policy: Policy) -> tuple[Array, Array, Array]:
    """For every row: an index into the reasons (0: kept), the row it is a copy of, its split.

    A copy is dropped from the training split rather than from the held-out one, so that nothing is both trained and
    measured on. Every row of a text with different labels is dropped, or all but the first (`conflicts="first"`).
    """
    rows = len(keys)
    given = np.where(keys["given"] >= 0, keys["given"], 0).astype(np.int64)
    own = policy.own_splits and _has_own_train(keys)
    reasons, firsts = np.zeros(rows, np.int8), np.arange(rows)
    if policy.dedup:
        reasons, firsts = _copies(keys, given if own else np.zeros(rows, np.int64), policy.conflicts)
    if policy.max_examples is not None:
        kept = np.flatnonzero(reasons == _KEPT)
        # The second half of the hash: the first decides the splits, and its smallest values are the test split.
        order = np.argsort(_words(keys["same"])[kept, 1], kind="stable")
        reasons[kept[order[policy.max_examples :]]] = _TOO_MANY
    splits = given.copy() if own else np.zeros(rows, np.int64)
    if FORMS[policy.form].has_splits:
        _hold_out(keys, policy, own, reasons == _KEPT, splits)
    return reasons, firsts, splits


def _words(same: Array) -> Array:
    return np.frombuffer(same.tobytes(), ">u8").astype(np.uint64).reshape(-1, 2)


def _copies(keys: Array, splits: Array, conflicts: str) -> tuple[Array, Array]:
    rows = len(keys)
    reasons = np.zeros(rows, np.int8)
    high, low = _words(keys["same"]).T
    order = np.lexsort((np.arange(rows), -splits, low, high))  # of equal ones the held-out comes first
    starts = np.ones(rows, bool)
    starts[1:] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
    group = np.cumsum(starts) - 1
    first_of = order[np.flatnonzero(starts)][group]
    differs = keys["label"][order] != keys["label"][first_of]
    found = np.where(starts, _KEPT, np.where(splits[order] == splits[first_of], _COPY, _LEAK))
    if conflicts == "drop":
        found[(np.bincount(group[differs], minlength=int(group[-1]) + 1) > 0)[group]] = _CONFLICT
    else:
        found[differs] = _CONFLICT
    reasons[order] = found
    firsts = np.empty(rows, np.int64)
    firsts[order] = first_of
    return reasons, firsts


def _hold_out(keys: Array, policy: Policy, own: bool, kept: Array, splits: Array) -> None:
    """Move training rows to the held-out splits the files do not have, by content hash."""
    there = set(np.unique(splits[kept])) if own else set()
    shares = [0.0 if SPLITS.index(n) in there else getattr(policy, n) for n in ("validation", "test")]
    pool = np.flatnonzero(kept & (splits == 0))
    hashes = keys["group"].astype(np.uint64)
    if min(shares) > 0:
        edges = choose_edges(hashes[pool], *shares)
    else:
        ordered = np.unique(hashes[pool])
        test, validation = (int(share * _RANGE) if share else 0 for share in reversed(shares))
        if max(shares) and len(ordered) > 1:  # the one split that is made is not left empty, and leaves one to train on
            edge = min(max(test, validation, int(ordered[0]) + 1), int(ordered[-1]))
            test, validation = (edge if share else 0 for share in reversed(shares))
        edges = (test, max(test, validation))
    splits[pool] = np.array([0, 1, 2])[assign(hashes[pool], edges)]


# -- second pass: the dataset and its report ----------------------------------------------------------------------


def _write(run: Run, spool: _Spool, policy: Policy, books: Accounting, fates: tuple[Array, Array, Array]) -> _Summary:
    form, (reasons, firsts, splits) = FORMS[policy.form], fates
    summary, total = _Summary(policy), len(spool.keys)
    schema = schema_of(policy.form, spool.tools)
    names = [SPLITS[n] for n in np.unique(splits[reasons == _KEPT])] if form.has_splits else [""]
    writers = {name: ShardWriter(run.out / name, policy.form, schema) for name in names}
    for number, row in enumerate(_rows(spool, policy.form)):
        if reason := int(reasons[number]):
            detail = f"same text as {bytes(spool.keys['id'][firsts[number]]).hex()}" if reason != _TOO_MANY else ""
            books.drop(Drop(row["id"], row["path"], _REASONS[reason], detail, row["bytes"]))
        else:
            split = SPLITS[splits[number]] if form.has_splits else ""
            writers[split].add(row if spool.tools else _without_tools(row))
            books.keep({**row, "split": split})
            summary.add(row, split, form)
        if number % _CHECK_EVERY == 0:
            run.progress(number, total, unit="examples", kept=books.kept.documents)
            run.check_stop()
    for writer in writers.values():
        writer.close()
    return summary


def _rows(spool: _Spool, form: str) -> Iterator[Row]:
    for batch in read_shards(shard_paths(spool.folder, prefix=form)):
        yield from batch.to_pylist()


def _without_tools(row: Row) -> Row:
    for name in ("messages", "prompt"):
        if isinstance(row.get(name), list):
            row[name] = [{"role": m["role"], "content": m["content"]} for m in row[name]]
    return row


class _Summary:
    """What the report says about the examples that were kept."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.labels: dict[str, Counter[str]] = {}
        self.lengths: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self.splits: Counter[str] = Counter()
        self.samples: list[Sample] = []

    def add(self, row: Row, split: str, form: Form) -> None:
        self.splits[split] += 1
        for label in form.labels(row) if form.labels else ():
            self.labels.setdefault(str(label), Counter())[split] += 1
        for column in form.columns:
            value = row[column.name]
            if isinstance(value, str | list | bytes) and column.name not in ("label", "tags", "kind", "format"):
                self.lengths[column.name].append(len(value))
        if len(self.samples) < _SAMPLES and "image" not in row:
            shown = {column.name: row[column.name] for column in form.columns if row[column.name] is not None}
            text = "\n".join(f"{name}: {value}" for name, value in shown.items())
            self.samples.append(Sample(title=row["path"], prompt="", text=text[:1000]))

    def finish(self, run: Run, books: Accounting, form: Form, tables: Sequence[Table]) -> Metrics:
        counts = books.dropped
        copies = sum(counts[name].documents for name in ("exact-copy", "copy-of-held-out") if name in counts)
        conflicts = counts["label-conflict"].documents if "label-conflict" in counts else 0
        if conflicts:
            what = "all copies" if self.policy.conflicts == "drop" else "all but the first"
            books.find("warning", f"{conflicts:,} examples dropped: same text, different labels ({what})")
        if copies:
            books.find("info", f"{copies:,} exact copies dropped (equal but for case and spaces)")
        for split, missing in self._missing().items():
            books.find("warning", f"the {split} split has no example of: {', '.join(missing[:20])}")
        for reason, tally in sorted(counts.items()):
            if reason not in _REASONS:
                books.find("warning", f"{tally.documents:,} dropped: {reason} ({tally.bytes:,} bytes)")
        for finding in books.findings:
            (run.log if finding.level == "info" else run.warn)(finding.text)
        splits = ", ".join(f"{name or 'in all'} {count:,}" for name, count in sorted(self.splits.items()))
        dropped = books.documents.documents - books.kept.documents
        verdict = f"{books.kept.documents:,} {self.policy.form} ({splits}); {dropped:,} dropped"
        metrics = books.finish(verdict, [*tables, self._label_table(), self._length_table()])
        report = Report.load(run.out)
        report.model_copy(update={"samples": self.samples}).save(run.out)
        labels = {"labels": len(self.labels)} if form.label and form.labels else {}
        return {
            "form": self.policy.form, "origin": self.policy.origin, **metrics, "copies": copies,
            "label_conflicts": conflicts, **labels, **{f"{n or 'all'}_examples": c for n, c in self.splits.items()},
        }  # fmt: skip

    def _missing(self) -> dict[str, list[str]]:
        """Labels by the split that lacks them. Of tags, rare ones are expected to be missing somewhere."""
        if self.policy.form not in ("labelled", "images"):
            return {}
        lacking = {s: [label for label, n in sorted(self.labels.items()) if not n[s]] for s in sorted(self.splits)}
        return {split: labels for split, labels in lacking.items() if labels}

    def _label_table(self) -> Table:
        table = Table(title="examples by label", columns=["label", *SPLITS])
        ranked = sorted(self.labels.items(), key=lambda item: (-item[1].total(), item[0]))
        table.rows.extend([label, *(counts[split] for split in SPLITS)] for label, counts in ranked[:_LABELS_SHOWN])
        if rest := ranked[_LABELS_SHOWN:]:
            table.rows.append([f"{len(rest)} more", *(sum(counts[split] for _, counts in rest) for split in SPLITS)])
        return table

    def _length_table(self) -> Table:
        table = Table(title="lengths", columns=["column", "unit", "min", "median", "mean", "95 %", "max"])
        for name, found in self.lengths.items():
            kind = next(column.type for column in FORMS[self.policy.form].columns if column.name == name)
            unit = {"string": "characters", "large_string": "characters", "binary": "bytes"}.get(str(kind), "items")
            low, middle, high = (float(q) for q in np.quantile(found, [0.0, 0.5, 0.95]))
            table.rows.append([name, unit, int(low), middle, round(float(np.mean(found)), 1), high, max(found)])
        return table


def _nothing(policy: Policy, books: Accounting) -> BadInput:
    reasons = sorted(books.dropped.items(), key=lambda item: -item[1].documents)
    if not reasons:
        return BadInput(f"{policy.origin} has no files", hint="give a file or a folder of examples")
    counted = ", ".join(f"{tally.documents:,} {reason}" for reason, tally in reasons[:6])
    wanted = ", ".join(column.name for column in FORMS[policy.form].columns)
    hint = (
        f"{policy.form} have the columns {wanted}; name theirs with --columns ours=theirs,…, or choose another --form"
    )
    return BadInput(f"{policy.origin} has no {policy.form} that can be used: {counted}", hint=hint)


def _nothing_left(policy: Policy, reasons: Array) -> BadInput:
    counted = ", ".join(f"{int((reasons == n).sum()):,} {name}" for n, name in enumerate(_REASONS) if n in reasons)
    return BadInput(f"nothing of {policy.origin} is left: {counted}", hint="try --conflicts first, or --no-dedup")

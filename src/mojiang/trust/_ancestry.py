"""How a dataset came about: its steps with what each kept and dropped, and the sources at the beginning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mojiang.core.artifact import Artifact
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.data._documents import read_shards

_SOURCE_FIELDS: Final = ("source", "dataset", "start", "hub")
_ORIGINS_SHOWN: Final = 8


@dataclass
class Step:
    """A data step: `dropped` is by reason, documents and bytes."""

    ref: str
    recipe: str
    documents: int
    kept: int
    dropped: dict[str, tuple[int, int]] = field(default_factory=dict)
    dropped_bytes: int = 0


@dataclass
class Beginning:
    """A dataset that was made from outside the store."""

    ref: str
    recipe: str
    source: str
    licences: dict[str, int]
    created: str
    fingerprint: str
    checksums: dict[str, str] = field(default_factory=dict)
    """Of packages, or of a few files: name → SHA-256."""
    files: int = 0
    """Files with a checksum in origins-*.parquet."""


@dataclass
class Example:
    """A document that was dropped, to show how to ask."""

    path: str
    reason: str
    detail: str
    step: str


@dataclass
class Ancestry:
    """Everything above a dataset, the dataset included."""

    lineage: list[Artifact]
    steps: list[Step]
    beginnings: list[Beginning]
    example: Example | None
    missing: int = 0
    """Ancestors that this store no longer has."""


def ancestry(store: Store, dataset: Artifact) -> Ancestry:
    """The steps in the order they were made, the sources, and one dropped document."""
    lineage = [artifact for artifact in store.lineage(dataset) if artifact.kind == "dataset"]
    known = {artifact.fingerprint for artifact in store.lineage(dataset)}
    missing = {fp for a in lineage for group in a.manifest.parents.values() for fp in group} - known
    steps = [step for artifact in reversed(lineage) if (step := _step(artifact)) is not None]
    beginnings = [_beginning(artifact) for artifact in lineage if not any(artifact.manifest.parents.values())]
    example = next((found for artifact in lineage if (found := _dropped(artifact)) is not None), None)
    return Ancestry(lineage, steps, beginnings, example, len(missing))


def _report(artifact: Artifact) -> Report | None:
    return Report.load(artifact.path) if "report.json" in artifact.manifest.files else None


def _step(artifact: Artifact) -> Step | None:
    report = _report(artifact)
    if report is None or "documents_in" not in report.scalars:
        return None
    s = report.scalars
    made = Step(artifact.ref, artifact.recipe, int(s["documents_in"]), int(s["documents_kept"]))
    for table in report.tables:
        if table.title == "dropped by reason":
            made.dropped = {str(row[0]): (int(row[1] or 0), int(row[2] or 0)) for row in table.rows}
    made.dropped_bytes = int(s.get("bytes_dropped", 0))
    return made


def _beginning(artifact: Artifact) -> Beginning:
    manifest, report = artifact.manifest, _report(artifact)
    given = next((str(manifest.config[name]) for name in _SOURCE_FIELDS if manifest.config.get(name)), artifact.recipe)
    licences: dict[str, int] = {}
    checksums = {n.removeprefix("sha256 "): str(v) for n, v in manifest.metrics.items() if n.startswith("sha256 ")}
    for table in report.tables if report else ():
        if table.title == "kept by licence":
            licences = {str(row[0]): int(row[1] or 0) for row in table.rows}
    made = Beginning(
        artifact.ref, artifact.recipe, str(manifest.metrics.get("source", given)), licences, manifest.created,
        artifact.fingerprint, checksums,
    )  # fmt: skip
    _add_origins(artifact, made)
    return made


def _add_origins(artifact: Artifact, made: Beginning) -> None:
    """Checksums of the files it was read from, where the load wrote them down."""
    seen: set[str] = set()
    for batch in read_shards(sorted(artifact.path.glob("origins-*.parquet")), ["path", "content_sha256"]):
        for path, checksum in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if checksum and checksum not in seen:
                seen.add(checksum)
                if len(made.checksums) < _ORIGINS_SHOWN:
                    made.checksums[path.partition("#")[0]] = checksum
    made.files = len(seen)


def _dropped(artifact: Artifact) -> Example | None:
    """The first document that a step dropped and said something about."""
    for batch in read_shards(sorted(artifact.path.glob("drops-*.parquet"))[:1]):
        for row in batch.slice(0, 50).to_pylist():
            if row["detail"]:
                return Example(row["path"], row["reason"], row["detail"], artifact.recipe)
    return None

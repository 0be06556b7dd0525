"""What the store knows about a model: its reports, its training data, its ancestors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mojiang.core.artifact import Artifact
from mojiang.core.store import Store
from mojiang.data._documents import SPLITS, read_documents, shard_exists


def reports_on(store: Store, model: Artifact) -> list[Artifact]:
    """Reports whose input `model` is this artifact, newest first."""
    found = [a for a in store.children(model) if a.kind == "report" and model.fingerprint in _models(a)]
    return sorted(found, key=lambda report: report.manifest.created, reverse=True)


def _models(report: Artifact) -> list[str]:
    return report.manifest.parents.get("model", [])


def parent_model(store: Store, model: Artifact) -> Artifact | None:
    """The model this one was made from, where its recipe has a `model` input that the store still has."""
    wanted = model.manifest.parents.get("model", [])
    return next((a for a in store.parents(model) if a.fingerprint in wanted and a.kind == "model"), None)


@dataclass(frozen=True)
class Share:
    """Training documents that agree in where they come from and what they are."""

    source: str
    licence: str
    language: str
    format: str
    documents: int
    bytes: int


def training_data(store: Store, model: Artifact) -> list[Share]:
    """What the model and its ancestors were trained on: the training documents behind every `train.*` step.

    A step that read conversations made from documents counts the documents. Largest share first; a dataset read by
    two steps is counted once.
    """
    rows: Counter[tuple[str, str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str, str]] = Counter()
    for dataset in _document_datasets(store, model):
        split = None if shard_exists(dataset.path) else "train"
        columns = ["source", "licence", "language", "format", "bytes"]
        for batch in read_documents(dataset.path, split, columns=columns):
            keys = list(zip(*(batch.column(name).to_pylist() for name in columns[:4]), strict=True))
            rows.update(keys)
            for key, size in zip(keys, batch.column("bytes").to_pylist(), strict=True):
                sizes[key] += size
    return [Share(*key, documents=rows[key], bytes=size) for key, size in sizes.most_common()]


def _document_datasets(store: Store, model: Artifact) -> list[Artifact]:
    """Datasets of documents nearest to each training step among the model and its ancestors."""
    found: dict[str, Artifact] = {}
    steps = [a for a in store.lineage(model) if a.kind == "model" and a.recipe.startswith("train.")]
    pending = [parent for step in steps for parent in store.parents(step) if parent.kind == "dataset"]
    while pending:
        dataset = pending.pop()
        if shard_exists(dataset.path) or any(shard_exists(dataset.path / split) for split in SPLITS):
            found[dataset.fingerprint] = dataset
        else:
            pending.extend(parent for parent in store.parents(dataset) if parent.kind == "dataset")
    return [found[fingerprint] for fingerprint in sorted(found)]

"""What the store knows about a model: its reports, its training data, its ancestors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mojiang.core.artifact import Artifact
from mojiang.core.store import Store
from mojiang.data._documents import SPLITS, read_documents, read_shards, shard_exists, shard_paths
from mojiang.data.examples import forms_in


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

    A step that read conversations mined from documents counts the documents; examples count as they are. Largest share
    first; a dataset read by two steps is counted once.
    """
    rows: Counter[tuple[str, str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str, str]] = Counter()
    for dataset in _trained_on(store, model):
        for key, size in _described(dataset):
            rows[key] += 1
            sizes[key] += size
    return [Share(*key, documents=rows[key], bytes=size) for key, size in sizes.most_common()]


def _described(dataset: Artifact) -> Iterator[tuple[tuple[str, str, str, str], int]]:
    """Source, licence, language and format of every training row of a dataset, and its bytes."""
    if _has_documents(dataset):
        split = None if shard_exists(dataset.path) else "train"
        columns = ["source", "licence", "language", "format", "bytes"]
        for batch in read_documents(dataset.path, split, columns=columns):
            for source, licence, language, form, size in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                yield (source, licence, language, form), size
        return
    for form in forms_in(dataset.path):
        columns = ["origin", "licence", "language", "bytes"]
        for batch in read_shards(shard_paths(dataset.path, "train", form), columns):
            for origin, licence, language, size in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                yield (origin, licence, language, form), size


def _has_documents(dataset: Artifact) -> bool:
    return any(shard_exists(folder) for folder in (dataset.path, *(dataset.path / split for split in SPLITS)))


def _trained_on(store: Store, model: Artifact) -> list[Artifact]:
    """Datasets with sources of their own (documents, examples) nearest to each training step of model and ancestors."""
    found: dict[str, Artifact] = {}
    steps = [a for a in store.lineage(model) if a.kind == "model" and a.recipe.startswith("train.")]
    pending = [parent for step in steps for parent in store.parents(step) if parent.kind == "dataset"]
    while pending:
        dataset = pending.pop()
        above = [parent for parent in store.parents(dataset) if parent.kind == "dataset"]
        if _has_documents(dataset) or not above:
            found[dataset.fingerprint] = dataset
        else:
            pending.extend(above)
    return [found[fingerprint] for fingerprint in sorted(found)]

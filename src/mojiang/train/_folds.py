"""k folds of a dataset of examples, as datasets; and what the model of each fold thinks of examples it never saw.

Tensor names: B examples · C labels · K folds
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mojiang.core.artifact import Artifact, Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Cell, Table
from mojiang.core.run import Run
from mojiang.data._documents import ShardWriter, read_shards, shard_paths
from mojiang.data.examples import has_split, read_examples

if TYPE_CHECKING:
    from mojiang.model.network import Network
    from mojiang.train._batches import Examples

CONTENT = {"labelled": ("text", "text_b"), "images": ("image",)}
"""What makes two examples the same, by form."""
FORM_OF = {"train.classify": "labelled", "train.image_classify": "images"}
MICRO = {"labelled": 8192, "images": 256}
"""Tokens, or images, that are predicted at once."""


class Fold(Recipe):
    """One fold of the training split: it becomes the test split, and a share of the other folds the training split.

    A validation split stays what it is. Not in the catalog: `train.crossval` makes these.
    """

    recipe: ClassVar[str] = "train.crossval_fold"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The dataset to fold."""
    form: str
    """labelled or images."""
    folds: int = Field(ge=2)
    """How many folds there are."""
    fold: int = Field(ge=0)
    """Which one this is."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the other folds' examples to train on; a smaller share is a part of a larger one."""

    def run(self, run: Run) -> Metrics:
        """Write train/, test/ and, where there is one, validation/."""
        source = run.input("data").path
        rows = list(read_examples(source, "train", self.form))
        keys, labels = contents(rows, self.form), [str(row["label"]) for row in rows]
        held_out = assign_folds(keys, labels, self.folds) == self.fold
        parts = {"train": ~held_out & chosen_share(keys, labels, ~held_out, self.share), "test": held_out}
        table = pa.Table.from_batches(read_shards(shard_paths(source, "train", self.form)))
        metrics: Metrics = {}
        for split, mask in parts.items():
            metrics[split] = _write(run.out / split, self.form, table.filter(pa.array(mask)))
        if has_split(source, "validation", self.form):
            kept = pa.Table.from_batches(read_shards(shard_paths(source, "validation", self.form)))
            metrics["validation"] = _write(run.out / "validation", self.form, kept)
        return metrics


def _write(folder: Path, form: str, table: pa.Table) -> int:
    with ShardWriter(folder, form, table.schema) as writer:
        for batch in table.to_batches():
            writer.add_batch(batch)
    return int(table.num_rows)


def contents(rows: Iterable[dict[str, Any]], form: str) -> list[str]:
    """A hash of what each example says, apart from its label."""
    return [
        hashlib.sha256(b"\0".join(_bytes(row.get(name)) for name in CONTENT[form])).hexdigest() for row in rows
    ]  # fmt: skip


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else (value or "").encode()


def assign_folds(keys: Sequence[str], labels: Sequence[str], folds: int) -> NDArray[np.int64]:
    """The fold of each example: the labels of each are dealt out evenly, in the order of the hash of the content.

    So it depends on what the examples say and not on their order, and copies are in one fold.

    Raises:
        BadInput: too few different examples of a label for each of them to be trained on, or of all for the folds.
    """
    label_of = dict(zip(reversed(keys), reversed(labels), strict=True))
    by_label: dict[str, list[str]] = {}
    for key in sorted(label_of):
        by_label.setdefault(label_of[key], []).append(key)
    few = [label for label, some in by_label.items() if len(some) < 2]
    if few or len(label_of) < folds:
        what = f"label {few[0]!r} has one example" if few else f"there are {len(label_of)} examples for {folds} folds"
        raise BadInput(f"{what}, copies not counted", hint="add examples, drop the label, or take fewer folds")
    dealt = (key for label in sorted(by_label) for key in by_label[label])
    fold_of = {key: number % folds for number, key in enumerate(dealt)}
    return np.array([fold_of[key] for key in keys], np.int64)


def chosen_share(
    keys: Sequence[str], labels: Sequence[str], among: NDArray[np.bool_], share: float
) -> NDArray[np.bool_]:
    """Which examples belong to a share of those `among`: of each label that share, rounded up, by a hash."""
    chosen = np.zeros(len(keys), bool)
    for label in set(labels):
        rows = [row for row in np.flatnonzero(among).tolist() if labels[row] == label]
        rows.sort(key=lambda row: (hashlib.sha256(f"share {keys[row]}".encode()).digest(), row))
        chosen[rows[: math.ceil(share * len(rows))]] = True
    return chosen


def predict(model: Artifact, recipe: Any, labels: list[str], trained_on: Path, data: Path, split: str) -> Any:
    """Probabilities (B, C) that a classifier gives the examples of a split, in their order.

    Args:
        recipe: what trained it, for the way that examples are read.
        trained_on: its dataset, whose brightness images are measured by.
    """
    from mojiang.model.load import load_model
    from mojiang.train._classification import Classification

    form = FORM_OF[recipe.recipe]
    network = load_model(model.path).eval()
    scores, examples = (_texts if form == "labelled" else _images)(model, recipe, labels, trained_on, data, split)
    return Classification(scores, len(labels)).predict(network, examples, MICRO[form])


def _texts(model: Artifact, recipe: Any, labels: list[str], trained_on: Path, data: Path, split: str) -> Any:
    from mojiang.tokenizer.load import load_tokenizer
    from mojiang.train._classification import encode_texts, text_scores

    tokenizer = load_tokenizer(model.path)
    examples, _ = encode_texts(list(read_examples(data, split, "labelled")), labels, tokenizer, recipe.context)
    pad_id = tokenizer.special_id("pad") or 0

    def scores(network: Network, batch: Examples) -> Any:
        return text_scores(network, batch, pad_id)

    return scores, examples


def _images(model: Artifact, recipe: Any, labels: list[str], trained_on: Path, data: Path, split: str) -> Any:
    from mojiang.train._images import image_scores, read_images

    return image_scores(read_images(trained_on, recipe.enlarge)), read_images(data, recipe.enlarge).split(split)


def figures(right_B: NDArray[np.int64], probabilities_BC: NDArray[np.float64]) -> dict[str, float]:
    """Accuracy, macro F1 and loss of predictions."""
    from mojiang.train._scores import accuracy, confusion, macro_f1

    counts = confusion(right_B.tolist(), probabilities_BC.argmax(1).tolist(), probabilities_BC.shape[1])
    nats = -np.log(np.maximum(probabilities_BC[np.arange(len(right_B)), right_B], 1e-30))
    return {"accuracy": accuracy(counts), "macro_f1": macro_f1(counts), "loss": float(nats.mean())}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample: n − 1)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def label_tables(counts_CC: NDArray[np.int64], labels: list[str]) -> list[Table]:
    """The confusion matrix (rows: what is right), and each label's precision, recall, F1 and number."""
    matrix: list[list[Cell]] = [
        [label, *(int(count) for count in row)] for label, row in zip(labels, counts_CC, strict=True)
    ]
    rows: list[list[Cell]] = []
    for number, label in enumerate(labels):
        hits, said, there = (int(n) for n in (counts_CC[number, number], counts_CC[:, number].sum(),
                                               counts_CC[number].sum()))  # fmt: skip
        rows.append([label, hits / max(1, said), hits / max(1, there), 2 * hits / max(1, said + there), there])
    return [
        Table(title="labels", columns=["label", "precision", "recall", "f1", "examples"], rows=rows),
        Table(title="confusion", columns=["right \\ predicted", *labels], rows=matrix),
    ]

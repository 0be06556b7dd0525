"""A quick classifier of good and bad texts, learned from examples of both, measured on some it has not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Finding, Report, Sample, Series, Table
from mojiang.data._documents import SPLITS
from mojiang.data._linear import Features, HashedLinear, features
from mojiang.data._mapping import map_batches
from mojiang.data.examples import has_split, read_examples

if TYPE_CHECKING:
    from mojiang.core.run import Run

_BATCH: Final = 32
_THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_SHOWN: Final = 3
_RANGE: Final = 2**64


class Quality(Recipe):
    """Learn to tell good texts from bad ones: a linear classifier on hashed n-grams, for `data.filter`.

    Give a corpus you would want more of and one you would not (`good` and `bad`), or labelled examples and the label
    that is good. Part of them, chosen by content, is held out; the report says what share of the good is kept and of
    the bad let through at each threshold. The model is a table of weights in a folder, asked at megabytes a second.

    When not to use: to judge truth or style; it learns what is easiest to tell the two apart by, such as the topic.
    Source: Brown et al. 2020, appendix A (the classifier of GPT-3); Joulin et al. 2016; Weinberger et al. 2009.
    Example:
        >>> Quality(good="books", bad="web")
        Quality(good='books', ...)
    """

    recipe: ClassVar[str] = "data.quality"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    good: DatasetRef | None = None
    """A corpus of texts as they should be."""
    bad: DatasetRef | None = None
    """A corpus of texts as they should not be."""
    labelled: DatasetRef | None = None
    """Labelled examples, instead of the two."""
    good_label: str | None = None
    """The label of the good ones among them; every other label is bad."""
    held_out: float = Field(0.1, gt=0, lt=0.5)
    """Share that is measured on, by content hash; labelled examples with a test split use that."""
    epochs: int = Field(5, ge=1)
    """How often the texts are gone through."""
    learning_rate: float = Field(0.3, gt=0)
    """Step of AdaGrad."""
    buckets: int = Field(2**18, ge=2**10, le=2**26)
    """Places in the table; more tell more n-grams apart."""
    max_texts: int = Field(200_000, ge=10)
    """Most texts of each kind, the first by content hash; about 2 kB of memory each."""

    @model_validator(mode="after")
    def _has_both(self) -> Quality:
        two, one = (self.good, self.bad), (self.labelled, self.good_label)
        if all(two) == all(one) or any(two) and any(one) or any(v is None for v in two) != any(map(bool, one)):
            raise ValueError("give good and bad, or labelled and good_label")
        return self

    def run(self, run: Run) -> Metrics:
        """Write model.safetensors, config.json and the report."""
        texts = self._read(run)
        rows = {held: [t for t in texts if t.held_out == held] for held in (False, True)}
        for held, group in rows.items():
            for good in (True, False):
                if not any(text.good == good for text in group):
                    what = f"no {'good' if good else 'bad'} text {'is held out' if held else 'to learn from'}"
                    raise BadInput(f"{what} of {len(texts):,} texts", hint="give more texts, or another share held out")
        model = HashedLinear(self.buckets)
        losses = _train(run, model, rows[False], self.epochs, self.learning_rate)
        model.save(run.out, {"good_label": self.good_label or "good", "trained_on": len(rows[False])})
        return _report(run.out, model, rows, losses)

    def _read(self, run: Run) -> list[_Text]:
        found: list[_Text] = []
        for good, source in ((True, self.good), (False, self.bad)):
            if source is not None:
                path = run.input("good" if good else "bad").path
                read = partial(_of_batch, good, self.held_out, self.buckets)
                group = [text for part in map_batches(run, read, path) for text in part]
                found += _least(group, self.max_texts)
                run.check_stop()
        if self.labelled is not None:
            every = list(_of_examples(run.input("labelled").path, str(self.good_label), self.held_out, self.buckets))
            for good in (True, False):
                found += _least([text for text in every if text.good == good], self.max_texts)
        return found


@dataclass(frozen=True)
class _Text:
    key: bytes
    good: bool
    held_out: bool
    features: Features = field(repr=False)
    opening: str


def _text(text: str, language: str, good: bool, share: float, buckets: int, held_out: bool | None = None) -> _Text:
    # By what a text says: a copy in the other corpus cannot be learned from and measured on.
    key = hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).digest()
    if held_out is None:
        held_out = int.from_bytes(key[:8], "big") < share * _RANGE
    return _Text(key, good, held_out, features(text, language, buckets), text[:300])


def _of_batch(good: bool, share: float, buckets: int, batch: pa.RecordBatch) -> list[_Text]:
    rows = batch.select(["text", "language"]).to_pylist()
    return [_text(row["text"], row["language"], good, share, buckets) for row in rows]


def _of_examples(path: Path, good_label: str, share: float, buckets: int) -> Iterator[_Text]:
    labels: set[str] = set()
    tested = has_split(path, "test", "labelled")
    for split in SPLITS:
        if not has_split(path, split, "labelled"):
            continue
        for row in read_examples(path, split, "labelled"):
            labels.add(str(row["label"]))
            held = split == "test" if tested else None
            text = f"{row['text']}\n{row['text_b']}" if row.get("text_b") else row["text"]
            yield _text(text, row["language"], str(row["label"]) == good_label, share, buckets, held)
    if good_label not in labels:
        raise BadInput(f"no example is labelled {good_label!r}", hint=f"labels: {', '.join(sorted(labels)[:12])}")


def _least(texts: list[_Text], most: int) -> list[_Text]:
    """At most so many, the first by content, each content once."""
    return sorted({text.key: text for text in texts}.values(), key=lambda text: text.key)[:most]


def _train(run: Run, model: HashedLinear, texts: list[_Text], epochs: int, rate: float) -> list[float]:
    random = np.random.default_rng(run.seed)
    targets = np.array([float(text.good) for text in texts])
    # The rarer kind weighs as much as the other: it is drawn as often.
    chosen = [np.flatnonzero(targets == kind) for kind in (0.0, 1.0)]
    size = max(map(len, chosen))
    losses = []
    for epoch in range(epochs):
        order = np.concatenate([random.permutation(np.resize(random.permutation(kind), size)) for kind in chosen])
        random.shuffle(order)
        total = 0.0
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            total += model.learn([texts[i].features for i in batch], targets[batch], rate) * len(batch)
        losses.append(total / len(order))
        run.progress(epoch + 1, epochs, unit="epochs", loss=losses[-1])
        run.check_stop()
    return losses


def _report(folder: Path, model: HashedLinear, rows: dict[bool, list[_Text]], losses: list[float]) -> Metrics:
    held = rows[True]
    good = np.array([text.good for text in held])
    scores = model.scores([text.features for text in held])
    table = Table(
        title="by threshold", columns=["threshold", "precision", "recall", "f1", "bad let through", "share kept"]
    )
    at: dict[float, tuple[float, float, float]] = {}
    for threshold in _THRESHOLDS:
        kept = scores >= threshold
        right = int((kept & good).sum())
        precision, recall = right / max(1, int(kept.sum())), right / int(good.sum())
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        at[threshold] = (precision, recall, f1)
        through = float(kept[~good].mean())
        table.rows.append([threshold, precision, recall, f1, through, float(kept.mean())])
    precision, recall, f1 = at[0.5]
    scalars = {"precision": precision, "recall": recall, "f1": f1, "auc": auc(scores, good),
               "accuracy": float(((scores >= 0.5) == good).mean()), "texts": float(len(rows[False])),
               "texts_held_out": float(len(held))}  # fmt: skip
    wrong = sorted(zip(abs(scores - good), held, scores, strict=True), key=lambda item: -item[0])[: 2 * _SHOWN]
    samples = [
        Sample(title=f"{'good' if text.good else 'bad'}, and judged {score:.2f}", prompt="", text=text.opening)
        for _, text, score in wrong
        if (score >= 0.5) != text.good
    ]
    few = min(int(good.sum()), int((~good).sum()))
    findings = [Finding(level="warning", text=f"only {few} texts of one kind are held out")] if few < 30 else []
    Report(
        title="data.quality", scalars=scalars, tables=[table], samples=samples, findings=findings,
        series=[Series(title="learning", x_label="epoch", y_label="loss (nats)",
                       x=[float(n + 1) for n in range(len(losses))], lines={"train": losses})],
        verdict=f"precision {precision:.3f}, recall {recall:.3f} on {len(held):,} texts held out",
    ).save(folder)  # fmt: skip
    return {name: round(value, 6) for name, value in scalars.items()}


def auc(scores: np.ndarray[Any, Any], good: np.ndarray[Any, Any]) -> float:
    """The chance that a good text scores higher than a bad one; ties count half (Mann and Whitney 1947).

    >>> auc(np.array([0.9, 0.2, 0.2]), np.array([True, True, False]))
    0.75
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[good].sum() - good.sum() * (good.sum() + 1) / 2
    return float(wins / (good.sum() * (~good).sum()))

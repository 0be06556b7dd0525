"""Held-out bits per byte of a model, beside compressors and an n-gram on exactly the same documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mojiang.core.config import Config
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Finding, Report, Table
from mojiang.core.run import Run

if TYPE_CHECKING:
    from mojiang.evaluate._held_out import Selection
    from mojiang.evaluate.metrics import Interval


class Baselines(Config):
    """What the model is compared with."""

    ngram_order: int = Field(5, ge=0, le=8)
    """Length of the n-grams of the Kneser-Ney baseline; 0 leaves it out."""
    ngram_train_bytes: int = Field(16_000_000, ge=1)
    """Most bytes of the training split that the n-gram model learns from."""


class HeldOut(Recipe):
    """Measure bits per byte on documents the model has not seen, beside honest baselines.

    Each document is read alone from <|endoftext|>; windows overlap so that every token past the opening has at least
    half a context behind it, and the closing <|endoftext|> is paid for: the figure is the length of a code that can be
    decoded, so it compares with gzip, xz and zstd on the same bytes, and across tokenizers. Intervals resample whole
    documents.

    When not to use: to compare how well models answer or follow instructions; bits per byte says nothing of that.
    Source: Gao et al. 2020 (The Pile) for bits per byte; Chen & Goodman 1998 for Kneser-Ney; Efron & Tibshirani 1993
    Example:
        >>> HeldOut(model="base", data="corpus").max_bytes
        400000
    """

    recipe: ClassVar[str] = "evaluate.heldout"
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["report"]] = "report"

    model: ModelRef
    """The model to evaluate."""
    data: DatasetRef
    """A dataset with splits; the n-gram baseline learns from its training split."""
    split: Literal["test", "validation"] = "test"
    """The split to evaluate on."""
    max_bytes: int = Field(400_000, ge=4)
    """Most bytes evaluated: whole documents, chosen by the hash that is their id."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the model; auto is bfloat16 where this machine computes it natively, and the report names it."""
    baselines: Baselines = Baselines()
    """What the model is compared with."""
    samples: int = Field(4, ge=0, le=50)
    """Continuations of held-out openings shown in the report."""
    sample_tokens: int = Field(96, ge=1, le=4096)
    """Length of each continuation, in tokens."""

    def run(self, run: Run) -> Metrics:
        """Score the documents by every method and write `report.json`."""
        from mojiang.evaluate._baselines import compressor_bits, ngram_bits
        from mojiang.evaluate._held_out import select_documents
        from mojiang.evaluate._loading import load_for_scoring, weights_digest
        from mojiang.evaluate._samples import continuations
        from mojiang.evaluate._scoring import document_nats

        dataset = run.input("data").path
        chosen = select_documents(dataset, self.split, self.max_bytes)
        model, tokenizer, precision = load_for_scoring(run.input("model").path, run.device, self.precision)
        documents = chosen.documents
        run.log(f"scoring {len(documents)} documents, {chosen.bytes:,} bytes, in {precision}")
        bits: dict[str, list[float]] = {}
        ids = tokenizer.encode_batch([document.text for document in documents])
        nats = document_nats(
            model, ids, start=tokenizer.borders[0], end=tokenizer.borders[1],
            context=model.config.max_position_embeddings, on_progress=_progress(run),
        )  # fmt: skip
        bits["model"] = [value / math.log(2) for value in nats]
        bits |= compressor_bits(documents)
        ngram_bytes = 0
        if self.baselines.ngram_order:
            limit, order = self.baselines.ngram_train_bytes, self.baselines.ngram_order
            bits["ngram"], ngram_bytes = ngram_bits(dataset, ids, tokenizer, order, limit)
        run.check_stop()
        samples = continuations(model, tokenizer, documents[: self.samples], self.sample_tokens)
        num_tokens = sum(len(document) for document in ids)
        report = _Result(self, chosen, bits, num_tokens, ngram_bytes, precision).report()
        report = report.model_copy(update={"samples": samples})
        report.save(run.out)
        return {**report.scalars, "precision": precision, "weights": weights_digest(run.input("model"))}


def _progress(run: Run) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        run.progress(done, total, unit="tokens")
        run.check_stop()

    return show


class _Result:
    """Bits of every document by every method, turned into a report."""

    def __init__(
        self, recipe: HeldOut, chosen: Selection, bits: dict[str, list[float]], num_tokens: int, ngram_bytes: int,
        precision: str,
    ) -> None:  # fmt: skip
        self.recipe, self.chosen, self.bits, self.precision = recipe, chosen, bits, precision
        self.num_tokens, self.ngram_bytes = num_tokens, ngram_bytes
        self.sizes = [len(document.data) for document in chosen.documents]

    def report(self) -> Report:
        """Scalars, the comparison, slices, findings and a verdict."""
        from mojiang.evaluate.metrics import ratio_interval

        intervals = {method: ratio_interval(bits, self.sizes) for method, bits in self.bits.items()}
        scalars = {"bits_per_byte": intervals["model"].value, **_ends("bits_per_byte", intervals["model"])}
        scalars |= {f"{m}_bits_per_byte": i.value for m, i in intervals.items() if m != "model"}
        scalars |= {
            "documents": float(len(self.sizes)),
            "bytes": float(self.chosen.bytes),
            "tokens": float(self.num_tokens),
            "bytes_per_token": self.chosen.bytes / max(self.num_tokens, 1),
            "perplexity_per_token": 2 ** (sum(self.bits["model"]) / (self.num_tokens + len(self.sizes))),
        }
        return Report(
            title="Bits per byte on held-out documents",
            scalars=scalars,
            tables=[self._comparison(intervals), *self._slices()],
            findings=self._findings(),
            verdict=self._verdict(),
        )

    def _label(self, method: str) -> tuple[str, str]:
        """Name of a method and what it learned from."""
        from mojiang.evaluate._compressors import LEVELS

        if method == "model":
            return f"this model ({self.precision})", "its training data"
        if method == "ngram":
            learned = f"{self.ngram_bytes / 1e6:.1f} MB of the training split"
            return f"Kneser-Ney {self.recipe.baselines.ngram_order}-gram, same tokens", learned
        return f"{LEVELS[method]}, each document alone", "nothing"

    def _comparison(self, intervals: dict[str, Interval]) -> Table:
        from mojiang.evaluate.metrics import ratio_interval

        rows: list[list[Cell]] = []
        for method, interval in sorted(intervals.items(), key=lambda item: item[1].value):
            name, learned = self._label(method)
            # Paired: the same documents are drawn for both, so document difficulty cancels.
            saved = ratio_interval(self.bits["model"], self.bits[method])
            row: list[Cell] = [name, learned, interval.value, *_finite(interval)]
            rows.append(row + [None if end is None else 100 * (end - 1) for end in _relative(method, saved)])
        columns = ["method", "learned from", "bits per byte", "95 % low", "95 % high"]
        columns += ["model against it, %", "low", "high"]
        return Table(title="The same bytes by every method", columns=columns, rows=rows)

    def _slices(self) -> list[Table]:
        tables = []
        for field in ("language", "format"):
            groups: dict[str, list[int]] = {}
            for i, document in enumerate(self.chosen.documents):
                groups.setdefault(getattr(document, field), []).append(i)
            rows = [self._slice(name, members) for name, members in groups.items()]
            rows.sort(key=lambda row: -float(row[2] or 0))
            columns = [field, "documents", "bytes", "bits per byte", "95 % low", "95 % high", "xz -9"]
            tables.append(Table(title=f"By {field}", columns=columns, rows=rows))
        return tables

    def _slice(self, name: str, members: list[int]) -> list[Cell]:
        from mojiang.evaluate.metrics import ratio_interval

        sizes = [self.sizes[i] for i in members]
        interval = ratio_interval([self.bits["model"][i] for i in members], sizes)
        xz = sum(self.bits["xz"][i] for i in members) / sum(sizes)
        return [name, len(members), sum(sizes), interval.value, *_finite(interval), xz]

    def _findings(self) -> list[Finding]:
        recipe, chosen, found = self.recipe, self.chosen, []
        how = "the whole split" if chosen.complete else f"of {chosen.split_bytes:,} in {chosen.split_documents}"
        text = f"{chosen.bytes:,} bytes of {len(self.sizes)} documents ({how}), each read alone from <|endoftext|>"
        found.append(Finding(level="info", text=f"{recipe.split} split: {text}."))
        if len(self.sizes) < 10:
            text = f"Only {len(self.sizes)} documents were evaluated: the intervals are wide and rough."
            found.append(Finding(level="warning", text=text))
        total = {method: sum(bits) for method, bits in self.bits.items()}
        for method in (m for m in total if m != "model" and total[m] <= total["model"]):
            text = f"{self._label(method)[0]} needs fewer bits than the model."
            found.append(Finding(level="warning", text=text))
        return found

    def _verdict(self) -> str:
        total = {method: sum(bits) for method, bits in self.bits.items()}
        best = min((m for m in total if m not in ("model", "ngram")), key=lambda m: total[m])
        value = total["model"] / sum(self.sizes)
        change = 1 - total["model"] / total[best]
        side = f"{change:.1%} fewer" if change >= 0 else f"{-change:.1%} more"
        return f"{value:.3f} bits per byte, {side} than {self._label(best)[0]}"


def _finite(interval: Interval) -> list[float | None]:
    """Ends of an interval for a table; one document has none, and JSON has no infinity."""
    return [end if math.isfinite(end) else None for end in (interval.low, interval.high)]


def _relative(method: str, saved: Interval) -> list[float | None]:
    return [None, None, None] if method == "model" else [saved.value, *_finite(saved)]


def _ends(name: str, interval: Interval) -> dict[str, float]:
    ends = {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: end for key, end in ends.items() if math.isfinite(end)}

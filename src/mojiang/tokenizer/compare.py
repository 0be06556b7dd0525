"""Tokenizers side by side on the same text: how long it gets, what is lost, how fast."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.files import sha256_file
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.report import Cell, Finding, Report, Sample, Table

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.tokenizer._others import Reads

_SPEED_BYTES = 4_000_000


class Compare(Recipe):
    """Encode the held-out text of a corpus with several tokenizers and set them side by side.

    Bytes per token by language, tokens per word or Chinese character, what becomes unknown, which documents come back
    exactly, and megabytes per second. Tokenizers may be artifacts, those of models, or
    files: a folder, tokenizer.json, SentencePiece's .model, tiktoken's .tiktoken.

    When not to use: to say which tokenizer makes the better model; fewer tokens are cheaper, not better by themselves.
    Source: Rust et al. 2021 (fertility); Petrov et al. 2023 (unequal cost of languages).
    Example:
        >>> Compare(tokenizers=("bpe", "char"), data="split").files
        ()
    """

    recipe: ClassVar[str] = "tokenizer.compare"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "report"

    data: DatasetRef
    """The corpus; of a split one the validation part is measured on."""
    tokenizers: tuple[TokenizerRef, ...] = ()
    """Tokenizers made here."""
    models: tuple[ModelRef, ...] = ()
    """Models whose tokenizers take part."""
    files: tuple[str, ...] = ()
    """Folders and files of others."""
    max_bytes: int = Field(20_000_000, ge=1000)
    """Text to measure on, at most."""

    @model_validator(mode="after")
    def _some(self) -> Compare:
        if not (self.tokenizers or self.models or self.files):
            raise ValueError("name at least one of tokenizers, models and files")
        return self

    def identity(self) -> dict[str, Any]:
        """What the files hold."""
        return {file: _content(Path(file).expanduser()) for file in self.files}

    def run(self, run: Run) -> Metrics:
        """Encode with each, and report."""
        from mojiang.tokenizer._others import open_tokenizer

        data = run.input("data").path
        split = "validation" if (data / "validation").is_dir() else None
        named = [(artifact.name, artifact.path) for artifact in (*run.inputs("tokenizers"), *run.inputs("models"))]
        named += [(_name(Path(file).expanduser()), Path(file).expanduser()) for file in self.files]
        found: dict[str, tuple[Reads, dict[str, Any], float]] = {}
        for number, (name, path) in enumerate(named):
            run.progress(number, len(named), unit="tokenizers")
            run.check_stop()
            name = name if name not in found else f"{name} ({number + 1})"
            tokenizer = open_tokenizer(path)
            found[name] = (tokenizer, _measured(tokenizer, data, split, self.max_bytes), _speed(tokenizer, data, split))
        report = _report(found, split)
        report.save(run.out)
        return dict(report.scalars)


def _content(path: Path) -> str:
    """SHA-256 of a file, or of a folder's tokenizer.json."""
    file = path / "tokenizer.json" if path.is_dir() else path
    return sha256_file(file) if file.is_file() else ""


def _name(path: Path) -> str:
    return path.parent.name if path.name == "tokenizer.json" else path.stem


def _measured(tokenizer: Reads, data: Path, split: str | None, most: int) -> dict[str, Any]:
    from mojiang.tokenizer._train import measure

    return dict(measure(tokenizer, data, split, most))


def _speed(tokenizer: Reads, data: Path, split: str | None) -> float:
    """Megabytes a second, after a first pass that fills caches."""
    from mojiang.data._documents import iter_texts

    texts, size = [], 0
    for text in iter_texts(data, split):
        texts.append(text)
        size += len(text.encode())
        if size > _SPEED_BYTES:
            break
    tokenizer.encode_batch(texts[: max(1, len(texts) // 10)])
    began = time.perf_counter()
    tokenizer.encode_batch(texts)
    return size / 1e6 / max(1e-9, time.perf_counter() - began)


def _report(found: dict[str, tuple[Reads, dict[str, Any], float]], split: str | None) -> Report:
    from mojiang.tokenizer._train import PROBES, total_of

    rows: list[list[Cell]] = []
    scalars: dict[str, float] = {}
    for name, (tokenizer, costs, speed) in found.items():
        total = total_of(costs)
        scalars[f"bytes_per_token_{name}"] = round(total.bytes / max(1, total.tokens), 4)
        scalars[f"unknown_share_{name}"] = round(total.unknown / max(1, total.tokens), 6)
        exact = 1 - total.inexact / max(1, total.documents)
        unknown = f"{total.unknown / max(1, total.tokens):.3%}"
        each = scalars[f"bytes_per_token_{name}"]
        rows.append([name, tokenizer.vocab_size, each, unknown, f"{exact:.1%}", round(speed, 2)])
    languages = sorted({language for _, costs, _ in found.values() for language in costs})
    by_language: list[list[Cell]] = [
        [language, *(_per_token(costs[language]) for _, costs, _ in found.values())] for language in languages
    ]
    best = max(found, key=lambda name: scalars[f"bytes_per_token_{name}"])
    samples = [
        Sample(title=f"{kind}: {name}", prompt=text, text=_shown(tokenizer, text))
        for kind, text in PROBES
        for name, (tokenizer, _, _) in found.items()
    ]
    findings = [] if split else [Finding(level="info", text="the corpus is not split: all of it is measured")]
    columns = ["tokenizer", "tokens", "bytes per token", "unknown", "exactly restored", "MB/s"]
    return Report(
        title="tokenizer.compare", scalars=scalars, findings=findings, samples=samples,
        tables=[
            Table(title="on all text", columns=columns, rows=rows),
            Table(title="bytes per token by language", columns=["language", *found], rows=by_language),
        ],
        verdict=f"{best} needs the fewest tokens: {scalars[f'bytes_per_token_{best}']:.2f} bytes each",
    )  # fmt: skip


def _per_token(cost: Any) -> float:
    return float(round(cost.bytes / max(1, cost.tokens), 3))


def _shown(tokenizer: Reads, text: str) -> str:
    return "|".join(tokenizer.decode([id]) for id in tokenizer.encode_batch([text])[0])

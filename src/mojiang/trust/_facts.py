"""What a card is written from, read from the store: nothing here is typed in by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mojiang.core.artifact import Artifact
from mojiang.core.report import Report
from mojiang.core.store import Store
from mojiang.trust._evidence import Share, reports_on, training_data

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Evidence:
    """A report and the model it measured."""

    artifact: Artifact
    report: Report
    direct: bool
    """Whether it measured the card's own model, not an ancestor."""


@dataclass
class Facts:
    """Everything the store knows about a model."""

    model: Artifact
    config: dict[str, Any]
    weight_bytes: int
    num_parameters: int
    lineage: list[Artifact]
    """The model and its ancestors, nearest first."""
    steps: list[Artifact]
    """The `train.*` steps, first step first."""
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """By training step's REF: metric name → (steps, values)."""
    data: list[Share] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    parity: Report | None = None
    """The model's own report, when compressing it wrote one."""

    @property
    def conversational(self) -> bool:
        """Whether it was tuned on conversations."""
        return any(step.recipe == "train.sft" for step in self.steps)

    @property
    def data_bytes(self) -> int:
        """Bytes of training text."""
        return sum(share.bytes for share in self.data)


def gather(store: Store, model: Artifact, reports: Sequence[Artifact]) -> Facts:
    """Read a model's facts; without `reports`, those of the store on it and on the models it came from."""
    lineage = store.lineage(model)
    steps = [a for a in reversed(lineage) if a.kind == "model" and a.recipe.startswith("train.")]
    # The nearest model's newest report of a recipe says it all; explicit reports are all shown.
    near = [r for a in lineage if a.kind == "model" for r in reports_on(store, a)]
    found = list(reports) or _main_first({report.recipe: report for report in reversed(near)})
    evidence = [
        Evidence(report, Report.load(report.path), model.fingerprint in report.manifest.parents.get("model", []))
        for report in found
        if report.recipe != "trust.card"
    ]
    weights = [model.path / name for name in model.manifest.files if name.endswith(".safetensors")]
    return Facts(
        model=model,
        config=json.loads((model.path / "config.json").read_text(encoding="utf-8")),
        weight_bytes=sum(path.stat().st_size for path in weights),
        num_parameters=sum(map(_num_parameters, weights)),
        lineage=lineage,
        steps=steps,
        curves={step.ref: read_curves(store, step) for step in steps},
        data=training_data(store, model),
        evidence=evidence,
        parity=Report.load(model.path) if "report.json" in model.manifest.files else None,
    )


def _main_first(reports: dict[str, Artifact]) -> list[Artifact]:
    """Reports by recipe name, the one on held-out text before all others."""
    return [reports[name] for name in sorted(reports, key=lambda name: (name != "evaluate.heldout", name))]


def _num_parameters(path: Path) -> int:
    """Parameters in a safetensors file, from its header alone; scales of quantised weights are not parameters."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, entry in header.items():
        if name == "__metadata__" or name.endswith("_scale"):
            continue
        size = 1
        for length in entry["shape"]:
            size *= length
        total += size
    return total


def read_curves(store: Store, step: Artifact) -> dict[str, Curve]:
    """The curves a training run left in its event log; empty when the log is gone (an imported model)."""
    path = store.events_path(step.manifest.run)
    points: dict[str, dict[float, float]] = {}
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the torn last line of a killed process
            if event.get("kind") != "metrics":
                continue
            for name, value in event.items():
                if name not in ("kind", "time", "step") and isinstance(value, int | float):
                    # A resumed run repeats the steps after its checkpoint; the last word counts.
                    points.setdefault(name, {})[float(event["step"])] = float(value)
    return {name: tuple(map(list, zip(*sorted(values.items()), strict=True))) for name, values in points.items()}  # type: ignore[misc]

"""Merging: several models of one shape become one, or a model takes its adapter in, without any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput, NotFound
from mojiang.core.recipe import Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Finding, Report, Table
from mojiang.core.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mojiang.model.network import Network

Method = Literal["linear", "slerp", "task_arithmetic", "ties", "lora"]


class Merge(Recipe):
    """Compute one model from several that were fine-tuned from the same one.

    linear: the weighted mean. slerp: between two models along the arc, tensor by tensor. task_arithmetic: the `base`
    plus the weighted sum of what each model changed. ties: the same, but of each change only the largest numbers are
    kept, the models vote on the sign of each number, and those that agree are averaged. lora: the `base` with the
    adapter of one model added. A report says how far the result is from each parent.

    When not to use: for models that were not trained from the same weights; the mean of two such is neither.
    Source: Wortsman et al. 2022 (linear); Shoemake 1985 (slerp); Ilharco et al. 2023 (task arithmetic); Yadav et al.
    2023 (TIES); Hu et al. 2021 (LoRA). Formulas as in mergekit (Goddard et al. 2024).
    Example:
        >>> Merge(models=("maths", "code"), base="base", method="ties", density=0.2).weights
        ()
    """

    recipe: ClassVar[str] = "compress.merge"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"

    models: tuple[ModelRef, ...] = Field(min_length=1)
    """The models to merge; for lora one that holds an adapter."""
    base: ModelRef | None = None
    """The model they were trained from (task_arithmetic, ties, lora)."""
    method: Method = "linear"
    """How."""
    weights: tuple[float, ...] = ()
    """One per model; none given: all 1. linear and ties divide by their sum."""
    t: float = Field(0.5, ge=0, le=1)
    """How far slerp goes from the first model to the second."""
    density: float = Field(0.2, gt=0, le=1)
    """Share of each tensor's numbers that ties keeps of a change, the largest ones."""
    scale: float = 1.0
    """What the merged change, or the adapter, is multiplied by before it is added to the base."""

    @model_validator(mode="after")
    def _fits(self) -> Merge:
        needs_base = self.method in ("task_arithmetic", "ties", "lora")
        if needs_base != (self.base is not None):
            raise ValueError(f"{self.method} {'needs' if needs_base else 'has no use for'} a base")
        if self.weights and (len(self.weights) != len(self.models) or self.method in ("slerp", "lora")):
            raise ValueError(f"{len(self.weights)} weights are given for {len(self.models)} models ({self.method})")
        if self.method == "linear" and self.weights and sum(self.weights) == 0:
            raise ValueError("the weights add up to 0")
        wanted = {"slerp": 2, "lora": 1}.get(self.method, len(self.models))
        if len(self.models) != wanted:
            raise ValueError(f"{self.method} takes {wanted} models, and {len(self.models)} are given")
        return self

    def run(self, run: Run) -> Metrics:
        """Load, check, compute, save, report."""
        from mojiang.model.load import load_model, save_model

        folders = [artifact.path for artifact in run.inputs("models")]
        origin = run.input("base").path if self.base else folders[0]
        merged = load_model(origin)
        report = self._lora(merged, folders[0]) if self.method == "lora" else self._merge(run, merged, folders)
        save_model(merged, origin, run.out)
        report.save(run.out)
        return dict(report.scalars)

    def _merge(self, run: Run, merged: Network, folders: list[Path]) -> Report:
        """Put the merged weights into `merged`, which is the base or the first model."""
        import torch

        from mojiang.compress._merging import METHODS
        from mojiang.model.load import load_model

        parents = {artifact.ref: load_model(artifact.path) for artifact in run.inputs("models")}
        for ref, parent in parents.items():
            check_alike(merged, parent, ref)
        states = [parent.state_dict() for parent in parents.values()]
        weights = list(self.weights or [1.0] * len(states))
        base = {name: tensor.clone() for name, tensor in merged.state_dict().items()} if self.base else None
        with torch.no_grad():
            for number, (name, tensor) in enumerate(merged.state_dict().items()):
                options = {"t": self.t, "density": self.density, "scale": self.scale}
                tensor.copy_(
                    METHODS[self.method]([state[name] for state in states], weights, base and base[name], **options)
                )
                run.progress(number + 1, len(states[0]), unit="tensors")
                run.check_stop()
        return distances(merged, parents, self.method)

    def _lora(self, merged: Network, folder: Path) -> Report:
        """Add the adapter's change to `merged`, and compare with computing it beside the weights."""
        import torch

        from mojiang.model.lora import adapted, load_adapter, merge_adapter

        places = [place for place in (folder, folder / "adapter") if (place / "adapter_config.json").exists()]
        if not places:
            raise NotFound(f"{folder} holds no adapter", hint="give what train.lora has made, or an adapter's folder")
        config = load_adapter(merged, places[0])
        if self.scale != 1.0 and config.use_dora:
            raise BadInput("a DoRA adapter cannot be scaled", hint="its magnitudes belong to the change as it is")
        for layer in adapted(merged).values():
            for adapter in layer.adapters.values():
                adapter.scale = adapter.scale * self.scale  # type: ignore[assignment, operator]
        tokens_BT = torch.arange(64)[None] * 37 % merged.config.vocab_size
        with torch.no_grad():
            beside_BTD = merged(tokens_BT)
            merge_adapter(merged)
            difference = float((merged(tokens_BT) - beside_BTD).abs().max())
        scalars = {"largest_difference": difference, "adapter_rank": float(config.rank)}
        return Report(
            title="LoRA merge", scalars=scalars,
            verdict=f"hidden states differ by at most {difference:.1e} from those computed with the adapter beside",
        )  # fmt: skip


def check_alike(first: Network, other: Network, name: str) -> None:
    """Raise `BadInput`, naming the tensors, if two models are not of one architecture and shape, or not of floats."""
    shapes = [{key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} for model in (first, other)]
    wrong = [key for key in shapes[0] | shapes[1] if shapes[0].get(key) != shapes[1].get(key)]
    if wrong:
        said = [f"{key} is {shapes[1].get(key, 'missing')}, not {shapes[0].get(key, 'there')}" for key in wrong[:5]]
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BadInput(f"{name} has another shape: {'; '.join(said)}{more}", hint="merge models of one base")
    if type(first) is not type(other):
        raise BadInput(f"{name} is a {type(other).__name__}, not a {type(first).__name__}", hint="merge alike models")
    if whole := [key for key, tensor in other.state_dict().items() if not tensor.is_floating_point()]:
        raise BadInput(f"{name} is quantised ({whole[0]})", hint="merge the float models, then quantise")


def distances(merged: Network, parents: dict[str, Network], method: str) -> Report:
    """How far the merged weights are from each parent's, relative to the length of those."""
    table = Table(title="distance from the parents", columns=["model", "relative distance", "cosine"], rows=[])
    scalars: dict[str, float] = {}
    for number, (ref, parent) in enumerate(parents.items(), 1):
        far, cosine = _compare(dict(merged.named_parameters()), dict(parent.named_parameters()))
        row: list[Cell] = [ref, far, cosine]
        table.rows.append(row)
        scalars |= {f"distance_{number}": far, f"cosine_{number}": cosine}
    findings = [Finding(level="info", text="Distances say nothing about quality: measure the merged model.")]
    verdict = f"{method} of {len(parents)} models"
    return Report(title="Merge", scalars=scalars, tables=[table], findings=findings, verdict=verdict)


def _compare(merged: dict[str, Tensor], parent: dict[str, Tensor]) -> tuple[float, float]:
    product = squares = own = other = 0.0
    for name, tensor in merged.items():
        a, b = tensor.detach().double().flatten(), parent[name].detach().double().flatten()
        product, squares = product + float(a @ b), squares + float((a - b) @ (a - b))
        own, other = own + float(a @ a), other + float(b @ b)
    return (squares / other) ** 0.5, product / (own * other) ** 0.5

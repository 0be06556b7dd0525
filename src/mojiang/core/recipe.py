"""A Recipe: a frozen, typed config whose `run(run)` turns artifacts into one artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin

from pydantic import model_validator

from mojiang.core.artifact import Kind
from mojiang.core.config import Config, digest, grouped

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.core.store import Store


@dataclass(frozen=True)
class Input:
    """Marks a field as the REF of an artifact of this kind (None: of any kind)."""

    kind: Kind | None


DatasetRef = Annotated[str, Input("dataset")]
TokenizerRef = Annotated[str, Input("tokenizer")]
ModelRef = Annotated[str, Input("model")]
ReportRef = Annotated[str, Input("report")]

Metrics = dict[str, float | int | str]


class Recipe(Config):
    """The shape of every capability.

    A subclass sets `recipe` (its catalog name), `makes` (the kind of artifact) and `run`. What is a field is identity:
    it is hashed into the fingerprint. What is pulled from the Run (paths, device, workers) is circumstance.
    """

    recipe: ClassVar[str]
    makes: ClassVar[Kind]
    version: ClassVar[int] = 1
    """Raise it when the same config would now give another result."""
    stochastic: ClassVar[bool] = False
    """True when the result depends on the seed, which then is part of the fingerprint."""

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, values: Any) -> Any:
        return grouped(cls, values) if isinstance(values, dict) else values

    def run(self, run: Run) -> Metrics:
        """Write the artifact's files below `run.out`; return its metrics."""
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def identity(self) -> dict[str, Any]:
        """What the recipe reads from outside the store (such as digests of source files), for the fingerprint."""
        return {}

    @classmethod
    def input_fields(cls) -> dict[str, Input]:
        """The fields that name artifacts."""
        return {name: mark for name, field in cls.model_fields.items() if (mark := _input_mark(field)) is not None}

    def input_refs(self) -> dict[str, list[str]]:
        """The REFs given, by field; a field left empty has none."""
        refs: dict[str, list[str]] = {}
        for name in self.input_fields():
            value = getattr(self, name)
            refs[name] = [] if value is None else [value] if isinstance(value, str) else list(value)
        return refs

    def literals(self) -> dict[str, Any]:
        """The config without its inputs, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(self.input_fields()))

    def fingerprint(self, parents: dict[str, list[str]], seed: int) -> str:
        """SHA-256 of recipe name@version, literal config, parents' fingerprints and, where it matters, the seed."""
        return digest(
            {
                "recipe": f"{self.recipe}@{self.version}",
                "config": self.literals(),
                "parents": parents,
                "reads": self.identity(),
                "seed": seed if self.stochastic else None,
            }
        )

    def execute(self, store: Store, *, name: str = "", seed: int = 0, device: str = "auto") -> Any:
        """Run this recipe in a store, or find what it made before; returns the Artifact.

        >>> import mojiang, tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp()); _ = (folder / "a.txt").write_text("Hello, world. " * 20)
        >>> store = mojiang.open(folder / ".mojiang")
        >>> mojiang.data.Load(source=str(folder / "a.txt")).execute(store).kind
        'dataset'
        """
        from mojiang.core.run import execute

        return execute(self, store, name=name, seed=seed, device=device).artifact


def _input_mark(field: Any) -> Input | None:
    """The `Input` of a field annotated XRef, XRef | None or tuple[XRef, ...]."""
    for mark in field.metadata:
        if isinstance(mark, Input):
            return mark
    pending = [field.annotation]
    while pending:
        annotation = pending.pop()
        if get_origin(annotation) is Annotated:
            for mark in get_args(annotation)[1:]:
                if isinstance(mark, Input):
                    return mark
        pending.extend(get_args(annotation))
    return None

"""What recipes on labelled rows share: reading their splits, and training on encoded examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any, Protocol

from mojiang.core.recipe import Metrics
from mojiang.core.run import Run
from mojiang.data.examples import has_split, read_examples
from mojiang.model._layers import Dropout
from mojiang.model.network import Network
from mojiang.train._batches import Drawn, Examples
from mojiang.train._objective import Objective
from mojiang.train._session import Job, outcome, save, train
from mojiang.train._settings import Compute, Length, Optim, Watch


class Measured(Objective):
    """An objective that measures any split of examples; validating is measuring that one."""

    validation: Examples | None = None

    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """Figures of a split, `micro` at once; the first decides which weights are best."""
        raise TypeError(f"{type(self).__name__} does not measure")

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """The figures of the validation split."""
        if self.validation is None:
            return {}
        return {f"validation_{name}": value for name, value in self.measure(model, self.validation, micro).items()}


class Trained(Protocol):
    """The settings of a recipe on examples."""

    @property
    def batch_size(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def length(self) -> Length: ...
    @property
    def optim(self) -> Optim: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def watch(self) -> Watch: ...


def read_splits(run: Run, form: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of the run's input `data`: of its training split, and of the others that there are.

    Raises:
        BadInput: there is no training split of this form.
    """
    data = run.input("data").path
    there = [split for split in ("validation", "test") if has_split(data, split, form)]
    return {split: list(read_examples(data, split, form)) for split in ("train", *there)}


def say_cut(run: Run, encoded: Mapping[str, tuple[Examples, int]], rows: Mapping[str, Sized], what: str) -> None:
    """Warn of the splits of which some rows did not fit; `encoded` has their examples and the number of those rows."""
    for split, (_, cut) in encoded.items():
        if cut:
            run.warn(f"{cut} of the {split} split's {len(rows[split])} {what}")


def fitting(model: Network, context: int) -> int:
    """`context`, or the number of positions that the model has, if that is less."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return context if positions is None else min(context, positions - getattr(model.config, "first_position", 0))


def set_dropout(model: Network, probability: float | None) -> None:
    """Give every dropout of a network this probability; None leaves them as its config says."""
    for layer in model.modules():
        if probability is not None and isinstance(layer, Dropout):
            layer.p = probability


def train_on(
    run: Run,
    recipe: Trained,
    model: Network,
    objective: Measured,
    splits: Mapping[str, Examples],
    origin: Path | None,
    started: float,
    source: Any = None,
    finish: Callable[[Network], None] | None = None,
) -> Metrics:
    """Train on the split `train`, measure the split `test` if there is one, save (with the tokenizer of `origin`).

    `source` gives the batches where rows alone do not make one; `finish` takes away what only training needed.
    """
    examples = splits["train"]
    batch_size = min(recipe.batch_size, len(examples))
    source = source or Drawn(len(examples), batch_size, run.seed, lambda rows, _: examples.take(rows))
    job = Job(
        model, objective, source, batch_size, recipe.length, recipe.optim, recipe.compute,
        recipe.watch.when(objective.validation is not None), context=recipe.context,
        row_cost=max(1, int(examples.lengths.mean())), started=started, before=True,
    )  # fmt: skip
    training, result = train(run, job)
    if finish is not None:
        finish(training.model)
    metrics = outcome(training, result, job) | {"examples": len(examples)}
    if "test" in splits:
        training.model.eval()
        found = objective.measure(training.model, splits["test"], training.settings.at_once)
        metrics |= {f"test_{name}": round(value, 5) for name, value in found.items()}
    save(training, origin, run)
    return metrics

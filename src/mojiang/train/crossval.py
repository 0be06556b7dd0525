"""k-fold cross-validation of a classifier: how good a recipe is on this data, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from mojiang.core.artifact import Artifact, Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.report import Cell, Finding, Report, Series, Table
from mojiang.core.run import Run
from mojiang.train._nested import from_words, name_of, run_nested, set_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIGURES = ("accuracy", "macro_f1", "loss")


class Crossval(Recipe):
    """Train a recipe k times, each time without one fold of the training split, and measure it on that fold.

    The report has mean and standard deviation over the folds, the confusion matrix and each label's F1 of all
    out-of-fold predictions (`out_of_fold.parquet`), and, where there is a test split, the ensemble of the k models
    beside the models alone. With `shares` a learning curve shows whether more data would help. A validation split is
    left to the recipe (to keep the best weights); a test split trains and chooses nothing. Models and folds are
    ordinary artifacts, so a run that was killed goes on with the fold it was at.

    When not to use: with plenty of data, where one held-out split says the same for a k-th of the time; or where
    examples belong together (one patient, one author) and must not be on both sides.
    Source: Stone 1974; Kohavi 1995 (stratified folds); Bengio & Grandvalet 2004 (what the spread over folds is not).
    Example:
        >>> Crossval(of="train.classify", data="reviews", model="bert", settings={"epochs": 2}, folds=3).shares
        ()
    """

    recipe: ClassVar[str] = "train.crossval"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "report"
    stochastic: ClassVar[bool] = True

    of: Literal["train.classify", "train.image_classify"]
    """The recipe to train."""
    data: DatasetRef
    """Labelled texts or images; the training split is folded."""
    model: ModelRef | None = None
    """The recipe's model, if it is to have one."""
    tokenizer: TokenizerRef | None = None
    """The recipe's tokenizer, if it is to have one."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """The recipe's settings, as JSON or YAML."""
    folds: int = Field(5, ge=2, le=100)
    """How many; each costs a training."""
    shares: tuple[float, ...] = ()
    """Shares of the training examples for a learning curve, such as 0.1 0.3; each costs k trainings more."""

    _parse = field_validator("settings", mode="before")(from_words)

    @field_validator("shares")
    @classmethod
    def _are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share <= 1 for share in value):
            raise ValueError(f"shares are {value}; each must be above 0 and at most 1")
        return value

    def run(self, run: Run) -> Metrics:
        """Train, predict, report."""
        import numpy as np

        from mojiang.data.examples import read_examples
        from mojiang.train._classification import labels_of, number_labels
        from mojiang.train._folds import FORM_OF, assign_folds, contents

        rows = list(read_examples(run.input("data").path, "train", FORM_OF[self.of]))
        labels = labels_of(rows)
        right_B = np.array(number_labels(rows, labels), np.int64)
        keys = contents(rows, FORM_OF[self.of])
        fold_B = assign_folds(keys, [str(row["label"]) for row in rows], self.folds)
        shares = sorted({*self.shares, 1.0})
        measured = {}
        for number, share in enumerate(shares):
            measured[share] = self._measure(run, share, labels, right_B, fold_B, (number, len(shares)))
        found = measured[1.0]
        self._save_predictions(run, [str(row["id"]) for row in rows], labels, right_B, fold_B, found.probabilities_BC)
        report = self._report(run, labels, right_B, measured)
        report.save(run.out)
        return dict(report.scalars)

    def _measure(
        self, run: Run, share: float, labels: list[str], right_B: NDArray[np.int64], fold_B: NDArray[np.int64],
        turn: tuple[int, int],
    ) -> _Measured:  # fmt: skip
        """Train and measure every fold at one share of the data."""
        import numpy as np

        from mojiang.train._folds import FORM_OF, Fold, figures, predict

        found = _Measured(np.zeros((len(right_B), len(labels))))
        form, data = FORM_OF[self.of], run.input("data").fingerprint
        for fold in range(self.folds):
            run.progress(turn[0] * self.folds + fold, turn[1] * self.folds, unit="models")
            part = run_nested(
                run, Fold(data=data, form=form, folds=self.folds, fold=fold, share=share), f"{name_of(run)}-fold"
            ).artifact
            settings = {**self.settings, "data": part.fingerprint}
            recipe = set_up(run, self.of, settings, ("model", "tokenizer"), f"{self.of} of fold {fold + 1}")
            model = run_nested(run, recipe, f"{name_of(run)}-model").artifact
            if share == 1:  # which also keeps gc from it
                run.store.alias(model, f"fold-{fold + 1}")
            probabilities_BC = predict(model, recipe, labels, part.path, part.path, "test")
            found.probabilities_BC[fold_B == fold] = probabilities_BC
            found.folds.append(figures(right_B[fold_B == fold], probabilities_BC))
            found.models.append((recipe, part, model))
            found.examples.append(int(part.metrics["train"]))
            run.check_stop()
        return found

    def _save_predictions(
        self, run: Run, ids: list[str], labels: list[str], right_B: Any, fold_B: Any, probabilities_BC: Any
    ) -> None:
        """`out_of_fold.parquet`: what the model that had not seen an example thinks of it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            "id": ids, "label": [labels[n] for n in right_B], "fold": fold_B + 1,
            "predicted": [labels[n] for n in probabilities_BC.argmax(1)],
            **{f"probability {label}": probabilities_BC[:, number] for number, label in enumerate(labels)},
        }  # fmt: skip
        pq.write_table(pa.table(columns), run.out / "out_of_fold.parquet")

    def _report(
        self, run: Run, labels: list[str], right_B: NDArray[np.int64], measured: dict[float, _Measured]
    ) -> Report:
        from mojiang.train._folds import figures, label_tables, spread
        from mojiang.train._scores import confusion

        found = measured[1.0]
        scalars: dict[str, float] = {"folds": self.folds, "examples": len(right_B)}
        for name in FIGURES:
            scalars[f"{name}_mean"], scalars[f"{name}_sd"] = spread([fold[name] for fold in found.folds])
        together = figures(right_B, found.probabilities_BC)
        scalars |= {f"out_of_fold_{name}": value for name, value in together.items()}
        rows: list[list[Cell]] = [
            [number + 1, *(fold[name] for name in FIGURES), found.models[number][2].ref]
            for number, fold in enumerate(found.folds)
        ]
        counts = confusion(right_B.tolist(), found.probabilities_BC.argmax(1).tolist(), len(labels))
        tables = [Table(title="folds", columns=["fold", *FIGURES, "model"], rows=rows), *label_tables(counts, labels)]
        text = "the folds' models share most of their data: the standard deviation over folds divided by the root of k "
        findings = [Finding(level="info", text=text + "is not the mean's error, which is larger")]
        ensemble = self._ensemble(run, labels, found)
        if ensemble:
            tables.append(ensemble)
            scalars |= {f"ensemble_{name}": float(ensemble.rows[0][1 + n] or 0) for n, name in enumerate(FIGURES)}
        series = [self._learning_curve(measured)] if len(measured) > 1 else []
        mean, sd = scalars["accuracy_mean"], scalars["accuracy_sd"]
        return Report(
            title=f"{self.folds}-fold cross-validation of {self.of}", scalars=scalars, tables=tables, series=series,
            findings=findings, verdict=f"accuracy {100 * mean:.1f} ± {100 * sd:.1f} % over {self.folds} folds",
        )  # fmt: skip

    def _ensemble(self, run: Run, labels: list[str], found: _Measured) -> Table | None:
        """The models' mean probabilities on the test split, beside each model alone; None without a test split."""
        import numpy as np

        from mojiang.data.examples import has_split, read_examples
        from mojiang.train._classification import number_labels
        from mojiang.train._folds import FORM_OF, figures, predict, spread

        data, form = run.input("data").path, FORM_OF[self.of]
        if not has_split(data, "test", form):
            return None
        right_B = np.array(number_labels(read_examples(data, "test", form), labels), np.int64)
        thought_KBC = np.stack(
            [predict(model, recipe, labels, part.path, data, "test") for recipe, part, model in found.models]
        )
        singles = [figures(right_B, one_BC) for one_BC in thought_KBC]
        best = max(range(len(singles)), key=lambda number: (found.folds[number]["accuracy"], -number))
        together = figures(right_B, thought_KBC.mean(0))
        top = {name: (min if name == "loss" else max)(one[name] for one in singles) for name in FIGURES}
        rows: list[list[Cell]] = [
            ["ensemble", *(together[name] for name in FIGURES)],
            ["model alone, mean", *(spread([one[name] for one in singles])[0] for name in FIGURES)],
            ["model alone, best on its fold", *(singles[best][name] for name in FIGURES)],
            ["model alone, best here (chosen on the test split)", *(top[name] for name in FIGURES)],
        ]
        return Table(title="ensemble on the test split", columns=["what", *FIGURES], rows=rows)

    def _learning_curve(self, measured: dict[float, _Measured]) -> Series:
        """The folds' mean figures over the number of training examples."""
        from mojiang.train._folds import spread

        lines = {
            name: [spread([fold[name] for fold in found.folds])[0] for found in measured.values()]
            for name in ("accuracy", "macro_f1")
        }
        counts = [spread(found.examples)[0] for found in measured.values()]
        return Series(title="learning curve", x_label="training examples", y_label="mean", x=counts, lines=lines)


@dataclass
class _Measured:
    """What the folds gave at one share of the data."""

    probabilities_BC: NDArray[np.float64]
    """Of every example, by the model that had not seen it."""
    folds: list[dict[str, float]] = field(default_factory=list)
    models: list[tuple[Recipe, Artifact, Artifact]] = field(default_factory=list)
    """Recipe, dataset and model of each fold."""
    examples: list[int] = field(default_factory=list)
    """Each fold's training examples."""

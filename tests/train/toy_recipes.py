"""Recipes that take no time, with a known optimum, in a module that worker processes can import."""

from __future__ import annotations

import os
import time
from typing import ClassVar

from mojiang.core.artifact import Kind
from mojiang.core.config import Config
from mojiang.core.errors import RunFailed
from mojiang.core.recipe import Metrics, Recipe
from mojiang.core.run import Run


class Shape(Config):
    """A group of settings."""

    x: float = 0.0
    """Best at 0.3."""
    size: int = 1
    """Best at 4."""


class Bowl(Recipe):
    """A loss with its minimum 0 at x=0.3, size=4, kind=good."""

    recipe: ClassVar[str] = "toy.bowl"
    makes: ClassVar[Kind] = "report"
    stochastic: ClassVar[bool] = True

    shape: Shape = Shape()
    """Numbers."""
    kind: str = "good"
    """A word; any but good costs 1."""
    fails: bool = False
    """Whether it fails."""
    seconds: float = 0.0
    """How long each of its four validations takes."""

    def run(self, run: Run) -> Metrics:
        """Come nearer to the loss in four validations."""
        if self.fails:
            raise RunFailed("this one fails", hint="as it was asked to")
        with open(run.store.workspace / "ran.txt", "a") as file:
            file.write(f"{os.getpid()} {self.shape.x} {self.shape.size}\n")
        loss = (self.shape.x - 0.3) ** 2 + (self.shape.size - 4) ** 2 / 10 + (self.kind != "good")
        for step in range(1, 5):
            time.sleep(self.seconds)
            run.metrics(step, validation_loss=loss + 1 / step)
            run.check_stop()
        (run.out / "report.json").write_text('{"title": "bowl"}')
        return {"validation_loss": loss, "word": "w"}

"""A picture of words on a plane."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mojiang.core.fonts import displayable, font_family
from mojiang.text._projection import Floats, principal, tsne, umap
from mojiang.text._vectors import WordVectors

Projection = Literal["tsne", "umap", "pca"]
_WAYS: Final[dict[Projection, tuple[str, Callable[[Any], Floats]]]] = {
    "tsne": ("t-SNE", tsne), "umap": ("UMAP", umap), "pca": ("principal components", principal),
}  # fmt: skip


def draw(vectors: WordVectors, words: list[str], projection: Projection, marked: set[str], path: Path) -> None:
    """Draw the words where their vectors lie, the marked ones in bold.

    Raises:
        Unavailable: the projection needs a package that is not installed.
    """
    from matplotlib.figure import Figure

    points_ND = np.stack([vectors[word] for word in words])
    points_ND = points_ND / np.maximum(np.linalg.norm(points_ND, axis=1, keepdims=True), 1e-12)
    name, way = _WAYS[projection]
    plane_N2 = way(points_ND)
    # A Chinese font need not come in bold, and matplotlib would say so for each word.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure = Figure(figsize=(12, 9), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(plane_N2[:, 0], plane_N2[:, 1], s=6, color="#9db4c8")
    for word, (x, y) in zip(words, plane_N2, strict=True):
        bold = word in marked
        axes.annotate(
            displayable(word), (x, y), xytext=(3, 2), textcoords="offset points", fontsize=10 if bold else 7.5,
            family=list(font_family()), fontweight="bold" if bold else "normal",
            color="#b03a2e" if bold else "#1c2833",
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{len(words)} words, {name}")
    figure.savefig(path, metadata={"Software": None})

"""Vectors on a plane: principal components, t-SNE over all pairs, and UMAP, for some hundreds of points.

Source: Pearson 1901; van der Maaten & Hinton 2008; McInnes et al. 2018.

Array names carry their shape: N points · D size.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.core.errors import Unavailable

Floats = npt.NDArray[np.float64]

_STEPS: Final = 500
_EXAGGERATED: Final = 100  # steps with larger attractions, in which clusters form


def principal(points_ND: Any) -> Floats:
    """The two principal components (N, 2), each with its largest value positive, so pictures are never mirrored."""
    centred_ND = np.asarray(points_ND, np.float64) - np.mean(points_ND, axis=0)
    left, singular, _ = np.linalg.svd(centred_ND, full_matrices=False)
    plane_N2 = left[:, :2] * singular[:2]
    signs_2 = np.sign(plane_N2[np.abs(plane_N2).argmax(axis=0), range(plane_N2.shape[1])])
    return np.asarray(plane_N2 * np.where(signs_2 == 0, 1, signs_2))


def affinities(points_ND: Any, perplexity: float) -> Floats:
    """Symmetric probabilities (N, N) of pairs: Gaussians around each point that reach `perplexity` neighbours."""
    distance_NN = np.maximum(0, _squared_distances(np.asarray(points_ND, np.float64)))
    np.fill_diagonal(distance_NN, np.inf)
    distance_NN -= distance_NN.min(axis=1, keepdims=True)  # the nearest has exp(0), so no row is all 0
    low_N, high_N = np.zeros(len(points_ND)), np.full(len(points_ND), np.inf)
    sharp_N = np.ones(len(points_ND))
    for _ in range(64):
        share_NN = np.exp(-distance_NN * sharp_N[:, None])
        share_NN /= share_NN.sum(axis=1, keepdims=True)
        entropy_N = -(share_NN * np.log(np.maximum(share_NN, 1e-300))).sum(axis=1)
        wide = entropy_N > np.log(perplexity)
        low_N, high_N = np.where(wide, sharp_N, low_N), np.where(wide, high_N, sharp_N)
        sharp_N = np.where(np.isinf(high_N), sharp_N * 2, (low_N + np.minimum(high_N, 1e300)) / 2)
    return np.asarray((share_NN + share_NN.T) / (2 * len(points_ND)))


def _squared_distances(points_ND: Floats) -> Floats:
    """Between all pairs, through inner products: (N, N, D) numbers at once would be too many."""
    size_N = (points_ND**2).sum(axis=1)
    return np.asarray(size_N[:, None] + size_N[None] - 2 * points_ND @ points_ND.T)


def divergence(share_NN: Floats, plane_N2: Floats) -> float:
    """KL of the pairs' probabilities from those on the plane."""
    near_NN = _nearness(plane_N2)
    found_NN = np.maximum(near_NN / near_NN.sum(), 1e-300)
    return float((share_NN * np.log(np.maximum(share_NN, 1e-300) / found_NN)).sum())


def slope(share_NN: Floats, plane_N2: Floats) -> Floats:
    """How the divergence changes with each point's place."""
    near_NN = _nearness(plane_N2)
    pull_NN = (share_NN - near_NN / near_NN.sum()) * near_NN
    return np.asarray(4 * (pull_NN.sum(axis=1)[:, None] * plane_N2 - pull_NN @ plane_N2))


def _nearness(plane_N2: Floats) -> Floats:
    near_NN = 1 / (1 + np.maximum(0, _squared_distances(plane_N2)))
    np.fill_diagonal(near_NN, 0)
    return np.asarray(near_NN)


def tsne(points_ND: Any, perplexity: float = 15) -> Floats:
    """t-SNE's plane (N, 2), from the principal components on: the same points give the same picture."""
    plane_N2 = principal(points_ND)
    plane_N2 = plane_N2 / max(float(plane_N2[:, 0].std()), 1e-12) * 1e-4
    share_NN = affinities(points_ND, min(perplexity, max(2.0, (len(plane_N2) - 1) / 3)))
    rate = max(len(plane_N2) / 12 / 4, 10.0)
    moved_N2, gain_N2 = np.zeros_like(plane_N2), np.ones_like(plane_N2)
    for step in range(_STEPS):
        early = step < _EXAGGERATED
        slope_N2 = slope(share_NN * (12 if early else 1), plane_N2)
        same = np.sign(slope_N2) == np.sign(moved_N2)
        gain_N2 = np.maximum(np.where(same, gain_N2 * 0.8, gain_N2 + 0.2), 0.01)
        moved_N2 = (0.5 if early else 0.8) * moved_N2 - rate * gain_N2 * slope_N2
        plane_N2 = plane_N2 + moved_N2
        plane_N2 -= plane_N2.mean(axis=0)
    return plane_N2


def umap(points_ND: Any, neighbours: int = 15, seed: int = 0) -> Floats:
    """UMAP's plane (N, 2), by the umap-learn package: the same points and seed give the same picture.

    Raises:
        Unavailable: umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise Unavailable("umap-learn is not installed", hint="pip install 'mojiang[umap]'") from error
    # With a seed it computes on one thread anyway, and warns unless told so.
    made = UMAP(n_neighbors=min(neighbours, len(points_ND) - 1), random_state=seed, n_jobs=1)
    return np.asarray(made.fit_transform(np.asarray(points_ND)), np.float64)

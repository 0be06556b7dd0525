"""Confident learning: how many labels are likely wrong, and which.

An example counts as another label when its out-of-fold probability of that label is at least what the examples that
carry the label have on average; so classes that are hard, or on which the classifier is timid, are not accused for it.

Source: Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", section 3.

Array names carry their shape: N examples · L labels (given × likely).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mojiang.trust._out_of_fold import Floats, Ints


@dataclass(frozen=True)
class LabelNoise:
    """The estimate, and the examples it speaks against, the most suspicious first."""

    share: float
    joint_LL: Floats
    """Estimated share of examples with the given label (row) whose true label is the other (column)."""
    suspects: Ints
    likely: Ints
    """The label each suspect likely has."""
    margins: Floats
    """Probability of the given label less that of the likely one."""


def confident_joint(chance_NL: Floats, label_N: Ints) -> tuple[Ints, Ints]:
    """Counts (given, likely) of examples that are confidently of a label, and that label of each example, or -1.

    >>> chances = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.85, 0.15]])
    >>> confident_joint(chances, np.array([0, 0, 1, 1, 1]))[0].tolist()
    [[1, 0], [1, 2]]
    """
    labels = chance_NL.shape[1]
    threshold_L = np.array([chance_NL[label_N == n, n].mean() if (label_N == n).any() else 1.0 for n in range(labels)])
    above_NL = chance_NL >= threshold_L
    weighed_NL = np.where(above_NL, chance_NL, -1.0)
    weighed_NL[np.arange(len(label_N)), label_N] += 1e-9  # between equals the given label has it
    likely_N = np.where(above_NL.any(axis=1), weighed_NL.argmax(axis=1), -1)
    counts_LL = np.zeros((labels, labels), np.int64)
    sure = likely_N >= 0
    np.add.at(counts_LL, (label_N[sure], likely_N[sure]), 1)
    return counts_LL, likely_N.astype(np.int64)


def estimate_noise(chance_NL: Floats, label_N: Ints) -> LabelNoise:
    """Share of wrong labels, which for which, and the suspects."""
    counts_LL, likely_N = confident_joint(chance_NL, label_N)
    # A row says how the examples of a given label divide; it is brought to as many as there are of that label.
    given_L = np.bincount(label_N, minlength=len(counts_LL)).astype(np.float64)
    row_L = counts_LL.sum(axis=1)
    share_LL = np.where(row_L[:, None] > 0, counts_LL / np.maximum(1, row_L)[:, None], np.eye(len(counts_LL)))
    joint_LL = share_LL * given_L[:, None] / max(1.0, given_L.sum())
    suspects: npt.NDArray[np.int64] = np.flatnonzero((likely_N >= 0) & (likely_N != label_N))
    margins = chance_NL[suspects, label_N[suspects]] - chance_NL[suspects, likely_N[suspects]]
    order = np.argsort(margins, kind="stable")
    suspects = suspects[order]
    return LabelNoise(float(1 - np.trace(joint_LL)), joint_LL, suspects, likely_N[suspects], margins[order])

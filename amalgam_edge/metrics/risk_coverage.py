"""What is gained by answering only where a classifier is sure. Pure functions on arrays.

El-Yaniv & Wiener, "On the Foundations of Noise-free Selective Classification" (JMLR 11, 2010); Geifman & El-Yaniv,
"Selective Classification for Deep Neural Networks", arXiv 1705.08500.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_POINTS = 100


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers among the texts answered, as more and more texts are.

    Attributes:
        coverage: share of the texts that are answered, surest first, ``(n_points,)``, rising to 1.
        risk: share of wrong answers among those, ``(n_points,)``.
        area: AURC, the mean of the risk over all coverages 1/n, 2/n … 1; 0 is best.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float


def risk_coverage(right: np.ndarray, confidence: np.ndarray) -> RiskCoverage:
    """The curve of a classifier that leaves out the texts it is least sure of.

    No threshold tells texts of equal confidence apart: their risk is the mean over all their orders.

    Args:
        right: whether each answer is right, ``(n_texts,)`` of bool; at least one.
        confidence: of each answer, ``(n_texts,)``.

    Returns:
        The curve, thinned to ``N_POINTS`` where there are more texts; its area is of all.
    """
    n_texts = len(right)
    _, level = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(level, weights=~right) / np.bincount(level)
    answered = np.arange(1, n_texts + 1)
    risk = np.cumsum(wrong[np.sort(level)]) / answered
    shown = np.unique(np.ceil(np.linspace(1 / N_POINTS, 1, N_POINTS) * n_texts - 1e-9).astype(int)) - 1
    return RiskCoverage(answered[shown] / n_texts, risk[shown], float(risk.mean()))

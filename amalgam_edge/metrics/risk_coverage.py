"""Selective classification: the error rate if only the most confident predictions are given. Pure functions on arrays.

El-Yaniv & Wiener, "On the Foundations of Noise-free Selective Classification" (JMLR 11, 2010); Geifman & El-Yaniv,
"Selective Classification for Deep Neural Networks", arXiv 1705.08500.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_POINTS = 100


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve, and the area under it.

    Attributes:
        coverage: Share of the texts that are answered, most confident first, ``(n_points,)``, rising to 1.
        risk: Share of wrong predictions among the texts answered, ``(n_points,)``.
        area: AURC, the mean of the risk over all coverages 1/n, 2/n … 1. 0 is best.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float


def risk_coverage(right: np.ndarray, confidence: np.ndarray) -> RiskCoverage:
    """The risk-coverage curve of a classifier that leaves out the texts it is least confident about.

    No threshold separates texts of equal confidence. Their risk is the mean over all orders of them.

    Args:
        right: Whether each prediction is right, ``(n_texts,)`` of bool; at least one text.
        confidence: The confidence of each prediction, ``(n_texts,)``.

    Returns:
        The curve, thinned to ``N_POINTS`` if there are more texts, and the area under the full curve.
    """
    n_texts = len(right)
    _, level = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(level, weights=~right) / np.bincount(level)
    answered = np.arange(1, n_texts + 1)
    risk = np.cumsum(wrong[np.sort(level)]) / answered
    shown = np.unique(np.ceil(np.linspace(1 / N_POINTS, 1, N_POINTS) * n_texts - 1e-9).astype(int)) - 1
    return RiskCoverage(answered[shown] / n_texts, risk[shown], float(risk.mean()))

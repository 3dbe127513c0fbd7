"""Whether two classifiers differ by more than chance on the same texts. Pure functions on arrays.

The difference depends only on the texts that exactly one of them has right: b are the texts that only the first has
right, c those that only the second has right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import log_sum_exp

N_RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same texts.

    Attributes:
        n_texts: Number of texts that both classified.
        accuracy: Accuracy of the first classifier.
        other_accuracy: Accuracy of the second classifier.
        difference: accuracy − other_accuracy = (b − c) / n_texts.
        interval: The 95 % bootstrap interval of the difference.
        b: Number of texts that only the first has right.
        c: Number of texts that only the second has right.
        p_value: Two-sided p-value of McNemar's test: how likely b and c are at least this uneven if both classifiers
            are equally accurate.
    """

    n_texts: int
    accuracy: float
    other_accuracy: float
    difference: float
    interval: tuple[float, float]
    b: int
    c: int
    p_value: float


def compare(right: np.ndarray, other_right: np.ndarray, *, seed: int = 0) -> Comparison:
    """Compare two classifiers: the difference in accuracy, its interval and its p-value.

    Args:
        right: Whether each prediction of the first classifier is right, ``(n_texts,)`` of bool.
        other_right: Whether each prediction of the second classifier is right, for the same texts.
        seed: Seed of the bootstrap.

    Raises:
        AmalgamError: There are no texts.
    """
    n_texts = len(right)
    if n_texts == 0:
        raise AmalgamError("no texts to compare two bundles on: give some with --data")
    b, c = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    return Comparison(
        n_texts=n_texts,
        accuracy=float(right.mean()),
        other_accuracy=float(other_right.mean()),
        difference=(b - c) / n_texts,
        interval=bootstrap_interval(n_texts, b, c, seed=seed),
        b=b,
        c=c,
        p_value=mcnemar(b, c),
    )


def mcnemar(b: int, c: int) -> float:
    """The exact two-sided p-value of McNemar's test (Psychometrika 12, 1947): min(1, 2 · P(X ≤ min(b, c))).

    X is binomial with b + c draws at 1/2. The sum is taken over logarithms, so that any b + c is possible.
    """
    n, smaller = b + c, min(b, c)
    k = np.arange(1, smaller + 1)
    log_binomials = np.concatenate(([0.0], np.cumsum(np.log((n - k + 1) / k))))
    return float(min(1.0, 2 * np.exp(log_sum_exp(log_binomials) - n * np.log(2))))


def bootstrap_interval(
    n_texts: int, b: int, c: int, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile interval of (b − c) / n_texts by the paired bootstrap (Efron & Tibshirani, 1993).

    A text adds 1, −1 or 0 to b − c. A resample of the texts is therefore one multinomial draw of three counts.
    """
    shares = np.array([b, c, n_texts - b - c]) / n_texts
    counts = np.random.default_rng(seed).multinomial(n_texts, shares, size=n_resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n_texts, (tail, 1 - tail))
    return float(low), float(high)

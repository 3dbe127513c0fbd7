"""Whether two classifiers differ by more than chance on the same texts. Pure functions on arrays.

Only texts that one alone has right tell them apart: b of these are the first one's, c the second one's.
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
        n_texts: that both answered.
        accuracy: of the first.
        other_accuracy: of the second.
        difference: accuracy − other_accuracy = (b − c) / n_texts.
        interval: in which the difference lies with 95 % confidence.
        b: texts that the first alone has right.
        c: texts that the second alone has right.
        p_value: how likely so uneven a b and c are if both err alike.
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
    """Difference in accuracy, its interval and its p-value.

    Args:
        right: whether each answer of the first is right, ``(n_texts,)`` of bool.
        other_right: the same of the second, in the same order.
        seed: of the bootstrap.

    Raises:
        AmalgamError: there are no texts.
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

    X is binomial, of b + c draws at 1/2. Summed as logarithms: neither b + c nor a tiny p is too large.
    """
    drawn, fewer = b + c, min(b, c)
    k = np.arange(1, fewer + 1)
    log_choices = np.concatenate(([0.0], np.cumsum(np.log((drawn - k + 1) / k))))
    return float(min(1.0, 2 * np.exp(log_sum_exp(log_choices) - drawn * np.log(2))))


def bootstrap_interval(
    n_texts: int, b: int, c: int, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile interval of (b − c) / n_texts over texts drawn again, in pairs (Efron & Tibshirani, 1993).

    A text adds 1, −1 or 0 to b − c, so a resample is one draw of three counts, however many texts there are.
    """
    shares = np.array([b, c, n_texts - b - c]) / n_texts
    counts = np.random.default_rng(seed).multinomial(n_texts, shares, size=n_resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n_texts, (tail, 1 - tail))
    return float(low), float(high)

"""Probabilities that mean what they say: temperature scaling, and how far confidence is from truth.

Pure functions on arrays. "On Calibration of Modern Neural Networks", arXiv 1706.04599; the error's bins are those of
Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (AAAI 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amalgam_edge.metrics.uncertainty import softmax

N_BINS = 15
COLDEST, HOTTEST = 0.1, 10.0
_HALVINGS = 60


@dataclass(frozen=True)
class Calibration:
    """A temperature and what it changes.

    Attributes:
        temperature: T, what the logits are divided by.
        n_texts: the held-out texts that it was fitted to.
        ece_before: expected calibration error against their supervision at T = 1.
        ece_after: the same at T.
    """

    temperature: float
    n_texts: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Reliability:
    """Predictions sorted into bins of equal width by their confidence.

    Attributes:
        confidence: mean confidence in each bin, ``(N_BINS,)``; 0 where the bin is empty.
        accuracy: share of right answers in each bin, ``(N_BINS,)``; 0 where the bin is empty.
        share: of all texts' weight that falls into each bin, ``(N_BINS,)``.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error Σ_b share_b · |accuracy_b − confidence_b|."""
        error = (self.share * np.abs(self.accuracy - self.confidence)).sum()
        return float(np.minimum(1.0, error))  # unlike min, it keeps NaN


def calibrate(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit the temperature to supervision, and measure what it changes; see :func:`fit_temperature`."""
    usable = _usable(logits, target, weight)
    logits, target, weight = logits[usable], target[usable], weight[usable]
    temperature = fit_temperature(logits, target, weight)
    before, after = (reliability(logits, target, weight, t).error for t in (1.0, temperature))
    return Calibration(temperature, len(logits), before, after)


def fit_temperature(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """The temperature T at which softmax(logits / T) has the least weighted cross-entropy to the targets.

    The cross-entropy is convex in 1 / T, so its slope is bisected, on log T.

    Args:
        logits: ``(n_texts, n_labels)``; rows that are not finite have no say.
        target: a distribution for each text, ``(n_texts, n_labels)``.
        weight: of each text, ``(n_texts,)``.

    Returns:
        T between ``COLDEST`` and ``HOTTEST``: where every target is certain and hit, colder is always better. 1 where
        the temperature changes nothing, as with no texts or without any weight.
    """
    usable = _usable(logits, target, weight)
    logits, target, weight = (array[usable].astype(np.float64) for array in (logits, target, weight))
    if not len(logits):
        return 1.0
    shifted = logits - logits.max(axis=1, keepdims=True)
    mass = target.sum(axis=1)
    expected = (target * shifted).sum(axis=1)

    def slope(log_temperature: float) -> float:
        """Of the cross-entropy by 1 / T; it falls as T rises."""
        predicted = (softmax(shifted, np.exp(log_temperature)) * shifted).sum(axis=1)
        return float((weight * (mass * predicted - expected)).sum())

    low, high = np.log(COLDEST), np.log(HOTTEST)
    coldest, hottest = slope(low), slope(high)
    if coldest == hottest:
        return 1.0
    if coldest <= 0 or hottest >= 0:
        return COLDEST if coldest <= 0 else HOTTEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def reliability(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, temperature: float = 1.0
) -> Reliability:
    """Confidence against truth: the likeliest label's probability, and the target's mass on that label.

    Args:
        logits: ``(n_texts, n_labels)``.
        target: ``(n_texts, n_labels)``: a distribution, or ones and zeros where the true label is known.
        weight: of each text, ``(n_texts,)``; by default all weigh the same.
        temperature: what the logits are divided by.
    """
    weight = np.ones(len(logits)) if weight is None else weight.astype(np.float64)
    probabilities = softmax(logits.astype(np.float64), temperature)
    best = probabilities.argmax(axis=1)[:, None]
    confidence, hit = (np.take_along_axis(array, best, axis=1)[:, 0] for array in (probabilities, target))
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    held, confident, right = (
        np.bincount(bins, weights=weight * values, minlength=N_BINS) for values in (1.0, confidence, hit)
    )
    filled = np.where(held > 0, held, 1.0)
    return Reliability(confident / filled, right / filled, held / max(held.sum(), np.finfo(float).tiny))


def _usable(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Which rows are finite throughout, ``(n_texts,)``."""
    return np.isfinite(logits).all(axis=1) & np.isfinite(target).all(axis=1) & np.isfinite(weight)

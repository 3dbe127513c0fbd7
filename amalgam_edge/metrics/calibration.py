"""Calibration: temperature scaling, and the expected calibration error. Pure functions on arrays.

Temperature scaling is that of "On Calibration of Modern Neural Networks" (arXiv 1706.04599). The bins of the error are
those of Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (AAAI 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amalgam_edge.metrics.uncertainty import log_softmax, softmax

N_BINS = 15
COLDEST, HOTTEST = 0.1, 10.0
_HALVINGS = 60


@dataclass(frozen=True)
class Calibration:
    """Fitted temperatures of a head, and the calibration error before and after them.

    Attributes:
        temperatures: The temperature T of each label, that its logit is divided by, ``(n_labels,)``; of a softmax head
            they are equal.
        n_texts: Number of held-out texts that T was fitted to.
        ece_before: Expected calibration error against the supervision of these texts at T = 1; of a sigmoid head the
            mean over its labels.
        ece_after: Expected calibration error against the same supervision at T.
    """

    temperatures: tuple[float, ...]
    n_texts: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width of the confidence.

    Attributes:
        confidence: Mean confidence in each bin, ``(N_BINS,)``; 0 if the bin is empty.
        accuracy: Share of right predictions in each bin, ``(N_BINS,)``; 0 if the bin is empty.
        share: Share of the total text weight that falls into each bin, ``(N_BINS,)``.
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
    """Fit the temperature of a softmax head to supervision and measure the calibration error before and after.

    The temperature stays 1 unless a fitted one :func:`earns its place <earns_its_place>`. Rows that are not finite are
    left out. See :func:`fit_temperature` for the arguments.
    """
    usable = _usable(logits, target, weight)
    logits, target, weight = logits[usable], target[usable], weight[usable]
    temperature = fit_temperature(logits, target, weight) if earns_its_place(logits, target, weight) else 1.0
    before, after = (reliability(logits, target, weight, t).error for t in (1.0, temperature))
    return Calibration((temperature,) * logits.shape[1], len(logits), before, after)


def earns_its_place(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> bool:
    """Whether a temperature makes both cross-entropy and calibration error smaller, on texts it was not fitted to.

    It is fitted to every other text and measured on the rest, and the other way round. A temperature always makes the
    cross-entropy of the texts that it was fitted to smaller, and may make everything else worse. See
    :func:`fit_temperature` for the arguments.
    """
    scaled = logits.astype(np.float64)
    for fold in (0, 1):
        scaled[fold::2] /= fit_temperature(logits[1 - fold :: 2], target[1 - fold :: 2], weight[1 - fold :: 2])
    smaller = cross_entropy(scaled, target, weight) < cross_entropy(logits, target, weight)
    return smaller and reliability(scaled, target, weight).error < reliability(logits, target, weight).error


def cross_entropy(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """−Σ_x v(x) Σ_y target_y(x) · log softmax(logits(x))_y, in nats; see :func:`fit_temperature` for the arguments."""
    return float(-(weight[:, None] * target * log_softmax(logits.astype(np.float64))).sum())


def calibrate_labels(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit a temperature to each label of a sigmoid head; a label is a softmax of two: sigmoid(z) = softmax([0, z])₂.

    Args:
        logits: Logits ``(n_texts, n_labels)``.
        target: The probability of each label, ``(n_texts, n_labels)``.
        weight: The weight v of each text, ``(n_texts,)``.
    """
    fitted = [
        calibrate(as_two_classes(z), as_probabilities(t), weight) for z, t in zip(logits.T, target.T, strict=True)
    ]
    before, after = (float(np.mean([getattr(each, name) for each in fitted])) for name in ("ece_before", "ece_after"))
    temperatures = tuple(each.temperatures[0] for each in fitted)
    return Calibration(temperatures, min(each.n_texts for each in fitted), before, after)


def as_two_classes(logits: np.ndarray) -> np.ndarray:
    """Logits ``(n_texts, 2)`` of "no" and "yes" whose softmax is the sigmoid of logits ``(n_texts,)``."""
    return np.stack([np.zeros_like(logits), logits], axis=1)


def as_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_texts, 2)`` of "no" and "yes", from those of "yes" ``(n_texts,)``."""
    return np.stack([1 - probabilities, probabilities], axis=1)


def fit_temperature(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """The temperature T that minimises the weighted cross-entropy of softmax(logits / T) to the targets.

    T = argmin −Σ_x v(x) Σ_y target_y(x) · log softmax(logits(x) / T)_y. The cross-entropy is convex in 1 / T, so the
    root of its derivative is found by bisection on log T.

    Args:
        logits: Logits ``(n_texts, n_labels)``. Rows in which anything is not finite are left out.
        target: The target distribution of each text, ``(n_texts, n_labels)``.
        weight: The weight v of each text, ``(n_texts,)``.

    Returns:
        T, limited to between ``COLDEST`` and ``HOTTEST``: if all predictions are right and all targets certain, the
        minimum is at 0. 1 if the temperature makes no difference, as without texts or weights.
    """
    usable = _usable(logits, target, weight)
    logits, target, weight = (array[usable].astype(np.float64) for array in (logits, target, weight))
    if not len(logits):
        return 1.0
    shifted = logits - logits.max(axis=1, keepdims=True)
    mass = target.sum(axis=1)
    expected = (target * shifted).sum(axis=1)

    def derivative(log_temperature: float) -> float:
        """The derivative of the cross-entropy with respect to 1 / T. It falls as T rises."""
        predicted = (softmax(shifted, np.exp(log_temperature)) * shifted).sum(axis=1)
        return float((weight * (mass * predicted - expected)).sum())

    low, high = np.log(COLDEST), np.log(HOTTEST)
    coldest, hottest = derivative(low), derivative(high)
    if coldest == hottest:
        return 1.0
    if coldest <= 0 or hottest >= 0:
        return COLDEST if coldest <= 0 else HOTTEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def reliability(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, temperature: float = 1.0
) -> Reliability:
    """Confidence (the probability of the likeliest label) against accuracy (the target's mass on that label).

    A bin holds the confidences above its lower edge up to and including its upper edge.

    Args:
        logits: Logits ``(n_texts, n_labels)``.
        target: A distribution for each text, ``(n_texts, n_labels)``; one-hot rows for gold labels.
        weight: The weight of each text, ``(n_texts,)``; 1 by default.
        temperature: The temperature that the logits are divided by.
    """
    weight = np.ones(len(logits)) if weight is None else weight.astype(np.float64)
    probabilities = softmax(logits.astype(np.float64), temperature)
    best = probabilities.argmax(axis=1)[:, None]
    confidence, hit = (np.take_along_axis(array, best, axis=1)[:, 0] for array in (probabilities, target))
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    total, confidence_sum, hit_sum = (
        np.bincount(bins, weights=weight * values, minlength=N_BINS) for values in (1.0, confidence, hit)
    )
    divisor = np.where(total > 0, total, 1.0)
    return Reliability(
        confidence=confidence_sum / divisor,
        accuracy=hit_sum / divisor,
        share=total / max(total.sum(), np.finfo(float).tiny),
    )


def _usable(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Whether everything of a text is finite, ``(n_texts,)`` of bool."""
    return np.isfinite(logits).all(axis=1) & np.isfinite(target).all(axis=1) & np.isfinite(weight)

"""How sure a teacher is of a text, from its logits with dropout off and on. Pure functions on arrays."""

from __future__ import annotations

import numpy as np


def log_sum_exp(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """Logarithm of the sum of exponentials along ``axis``, without overflow."""
    peak = logits.max(axis=axis, keepdims=True)
    return np.squeeze(peak, axis) + np.log(np.exp(logits - peak).sum(axis=axis))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities along the last axis."""
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats along the last axis; 0 · log 0 is 0."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(probabilities * np.log(safe)).sum(axis=-1)


def normalised_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy over its largest possible value, in [0, 1]: u = H(p) / log |Y| (arXiv 2112.07327).

    Args:
        probabilities: ``(..., n_classes)`` with at least two classes.
    """
    return np.clip(entropy(probabilities) / np.log(probabilities.shape[-1]), 0.0, 1.0)


def mutual_information(pass_probabilities: np.ndarray) -> np.ndarray:
    """What mask and prediction share, in nats: H(mean p) − mean H(p) (BALD, arXiv 1112.5745).

    Args:
        pass_probabilities: ``(n_passes, n_texts, n_classes)``.

    Returns:
        ``(n_texts,)``, never below zero.
    """
    shared = entropy(pass_probabilities.mean(axis=0)) - entropy(pass_probabilities).mean(axis=0)
    return np.maximum(shared, 0.0)


def energy(logits: np.ndarray) -> np.ndarray:
    """The negative free energy log Σ exp(logit) of each text; higher is more familiar (arXiv 2010.03759)."""
    return log_sum_exp(logits)

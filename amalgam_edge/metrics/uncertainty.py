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


def mean_prediction(pass_logits: np.ndarray, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pass' prediction, whether it counts, and the mean of those that do.

    Args:
        pass_logits: ``(n_passes, n_texts, n_classes)``.
        passes: how many of them, from the first, count for each text, ``(n_texts,)``; at least one.

    Returns:
        Probabilities ``(n_passes, n_texts, n_classes)``, of no meaning where they do not count; ``(n_passes, n_texts)``
        of bool; and ``(n_texts, n_classes)``.
    """
    counts = np.arange(len(pass_logits))[:, None] < passes
    probabilities = softmax(np.where(counts[..., None], pass_logits, 0.0).astype(np.float64))
    return probabilities, counts, (probabilities * counts[..., None]).sum(axis=0) / passes[:, None]


def summarise_passes(pass_logits: np.ndarray, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean prediction over a text's passes, and what mask and prediction share.

    Args:
        pass_logits: ``(n_passes, n_texts, n_classes)``.
        passes: how many of them, from the first, count for each text, ``(n_texts,)``; at least one.

    Returns:
        Mean probabilities ``(n_texts, n_classes)``, and in nats the mutual information H(mean p) − mean H(p) (BALD,
        arXiv 1112.5745), ``(n_texts,)``, never below zero.
    """
    probabilities, counts, mean = mean_prediction(pass_logits, passes)
    mean_entropy = (entropy(probabilities) * counts).sum(axis=0) / passes
    return mean, np.maximum(entropy(mean) - mean_entropy, 0.0)


def energy(logits: np.ndarray) -> np.ndarray:
    """The negative free energy log Σ exp(logit) of each text; higher is more familiar (arXiv 2010.03759)."""
    return log_sum_exp(logits)

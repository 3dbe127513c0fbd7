"""The uncertainty of a prediction, from logits with dropout off and on. Pure functions on arrays."""

from __future__ import annotations

import numpy as np


def log_sum_exp(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """The logarithm of the sum of exponentials along ``axis``, without overflow."""
    peak = logits.max(axis=axis, keepdims=True)
    return np.squeeze(peak, axis) + np.log(np.exp(logits - peak).sum(axis=axis))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities exp(logits / T) / Σ exp(logits / T) along the last axis, without overflow."""
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats along the last axis; 0 · log 0 is 0."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(probabilities * np.log(safe)).sum(axis=-1)


def normalised_entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy divided by its largest possible value, u = H(p) / log |Y| in [0, 1] (arXiv 2112.07327).

    Args:
        probabilities: Distributions ``(..., n_classes)`` over at least two classes.
    """
    return np.clip(entropy(probabilities) / np.log(probabilities.shape[-1]), 0.0, 1.0)


def mean_prediction(pass_logits: np.ndarray, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prediction of each pass, whether it counts, and the mean over the passes that count.

    Args:
        pass_logits: Logits of each pass, ``(n_passes, n_texts, n_classes)``.
        passes: The number of passes that count for each text, from the first, ``(n_texts,)``; at least one.

    Returns:
        The probabilities of each pass, ``(n_passes, n_texts, n_classes)``, without meaning where the pass does not
        count. Whether each pass counts, ``(n_passes, n_texts)`` of bool. The mean probabilities,
        ``(n_texts, n_classes)``.
    """
    counts = np.arange(len(pass_logits))[:, None] < passes
    probabilities = softmax(np.where(counts[..., None], pass_logits, 0.0).astype(np.float64))
    return probabilities, counts, (probabilities * counts[..., None]).sum(axis=0) / passes[:, None]


def summarise_passes(pass_logits: np.ndarray, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean prediction over the passes, and the mutual information between prediction and dropout mask.

    Args:
        pass_logits: Logits of each pass, ``(n_passes, n_texts, n_classes)``.
        passes: The number of passes that count for each text, from the first, ``(n_texts,)``; at least one.

    Returns:
        The mean probabilities, ``(n_texts, n_classes)``. The mutual information H(mean p) − mean H(p) in nats (BALD,
        arXiv 1112.5745), ``(n_texts,)``, never below 0.
    """
    probabilities, counts, mean = mean_prediction(pass_logits, passes)
    mean_entropy = (entropy(probabilities) * counts).sum(axis=0) / passes
    return mean, np.maximum(entropy(mean) - mean_entropy, 0.0)


def energy(logits: np.ndarray) -> np.ndarray:
    """The negative free energy log Σ exp(logits) along the last axis.

    It tends to be higher for texts like those the model was trained on (arXiv 2010.03759).
    """
    return log_sum_exp(logits)

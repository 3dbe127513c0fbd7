"""The uncertainty of a prediction, from logits with dropout off and on. Pure functions on arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np

Activation = Literal["softmax", "sigmoid"]
SOFTMAX: Activation = "softmax"  # one of the labels holds
SIGMOID: Activation = "sigmoid"  # any of the labels may hold, each is a question of its own


def log_sum_exp(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """The logarithm of the sum of exponentials along ``axis``, without overflow."""
    peak = logits.max(axis=axis, keepdims=True)
    return np.squeeze(peak, axis) + np.log(np.exp(logits - peak).sum(axis=axis))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities exp(logits / T) / Σ exp(logits / T) along the last axis, without overflow."""
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the softmax along the last axis, without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probabilities


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities 1 / (1 + exp(−logits)) of labels that do not exclude each other, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def to_probabilities(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """Probabilities of logits ``(..., n_labels)``: their softmax along the last axis, or the sigmoid of each."""
    return softmax(logits) if activation == SOFTMAX else sigmoid(logits)


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


def binary_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats of each probability and its complement, element by element."""
    return entropy(np.stack([probabilities, 1.0 - probabilities], axis=-1))


def predictive_entropy(probabilities: np.ndarray, activation: Activation) -> np.ndarray:
    """Entropy in nats of a prediction, along the last axis: of the distribution, or summed over independent labels."""
    return entropy(probabilities) if activation == SOFTMAX else binary_entropy(probabilities).sum(axis=-1)


def normalised_uncertainty(probabilities: np.ndarray, activation: Activation) -> np.ndarray:
    """The uncertainty u in [0, 1] of a prediction: :func:`normalised_entropy`, or the mean binary entropy / log 2.

    Args:
        probabilities: ``(..., n_labels)``.
        activation: What made them of logits.
    """
    if activation == SOFTMAX:
        return normalised_entropy(probabilities)
    return np.clip(binary_entropy(probabilities).mean(axis=-1) / np.log(2.0), 0.0, 1.0)


def mean_prediction(
    pass_logits: np.ndarray, passes: np.ndarray, activation: Activation = SOFTMAX
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prediction of each pass, whether it counts, and the mean over the passes that count.

    Args:
        pass_logits: Logits of each pass, ``(n_passes, n_texts, n_classes)``.
        passes: The number of passes that count for each text, from the first, ``(n_texts,)``; at least one.
        activation: What makes probabilities of logits.

    Returns:
        The probabilities of each pass, ``(n_passes, n_texts, n_classes)``, without meaning where the pass does not
        count. Whether each pass counts, ``(n_passes, n_texts)`` of bool. The mean probabilities,
        ``(n_texts, n_classes)``.
    """
    counts = np.arange(len(pass_logits))[:, None] < passes
    probabilities = to_probabilities(np.where(counts[..., None], pass_logits, 0.0).astype(np.float64), activation)
    return probabilities, counts, (probabilities * counts[..., None]).sum(axis=0) / passes[:, None]


def summarise_passes(
    pass_logits: np.ndarray, passes: np.ndarray, activation: Activation = SOFTMAX
) -> tuple[np.ndarray, np.ndarray]:
    """The mean prediction over the passes, and the mutual information between prediction and dropout mask.

    Args:
        pass_logits: Logits of each pass, ``(n_passes, n_texts, n_classes)``.
        passes: The number of passes that count for each text, from the first, ``(n_texts,)``; at least one.
        activation: What makes probabilities of logits.

    Returns:
        The mean probabilities, ``(n_texts, n_classes)``. The mutual information H(mean p) − mean H(p) in nats (BALD,
        arXiv 1112.5745), ``(n_texts,)``, never below 0; of independent labels the sum.
    """
    probabilities, counts, mean = mean_prediction(pass_logits, passes, activation)
    mean_entropy = (predictive_entropy(probabilities, activation) * counts).sum(axis=0) / passes
    return mean, np.maximum(predictive_entropy(mean, activation) - mean_entropy, 0.0)


def energy(logits: np.ndarray, activation: Activation = SOFTMAX) -> np.ndarray:
    """The negative free energy along the last axis: log Σ exp(logits), or Σ log(1 + exp(logits)).

    It tends to be higher for texts like those the model was trained on (arXiv 2010.03759; the sum over
    independent labels is JointEnergy, arXiv 2109.14162).
    """
    if activation == SOFTMAX:
        return log_sum_exp(logits)
    return np.logaddexp(0.0, logits).sum(axis=-1)

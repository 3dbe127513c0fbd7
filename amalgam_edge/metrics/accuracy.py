"""Comparing predictions with gold labels. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Share of texts whose predicted class is the gold one."""
    return float((gold == predicted).mean())


def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, n_labels: int) -> np.ndarray:
    """Counts by gold class (rows) and predicted class (columns), ``(n_labels, n_labels)``."""
    counts = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(counts, (gold, predicted), 1)
    return counts


def macro_f1(confusion: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """Mean over the classes that occur, in gold or prediction, of 2 · hits / (gold + predicted).

    Args:
        confusion: counts by gold and predicted class, ``(n_labels, n_labels)``.
        classes: those to take the mean over; by default all.
    """
    own = slice(None) if classes is None else list(classes)
    hits = np.diag(confusion)[own]
    totals = (confusion.sum(axis=0) + confusion.sum(axis=1))[own]
    occurring = totals > 0
    return float((2 * hits[occurring] / totals[occurring]).mean())


def measure(gold: np.ndarray, predicted: np.ndarray, n_labels: int) -> tuple[dict[str, float], np.ndarray]:
    """Accuracy and macro-F1, and the confusion matrix ``(n_labels, n_labels)`` that they come with."""
    confusion = confusion_matrix(gold, predicted, n_labels)
    return {"accuracy": accuracy(gold, predicted), "macro_f1": macro_f1(confusion)}, confusion


def measure_domain(confusion: np.ndarray, classes: Sequence[int]) -> dict[str, float | None]:
    """Accuracy and macro-F1 on the texts whose gold class is one of some; None where there are no such texts.

    Answers may be of any class: one of another class is a miss, and only the classes asked for have a say in macro-F1.

    Args:
        confusion: counts by gold and predicted class over all texts, ``(n_labels, n_labels)``.
        classes: of the domain, each once.
    """
    own = np.zeros_like(confusion)
    own[list(classes)] = confusion[list(classes)]
    n_texts = int(own.sum())
    if n_texts == 0:
        return {"n_texts": 0, "accuracy": None, "macro_f1": None}
    return {"n_texts": n_texts, "accuracy": float(np.trace(own) / n_texts), "macro_f1": macro_f1(own, classes)}


def negative_log_likelihood(gold: np.ndarray, logits: np.ndarray) -> float:
    """Mean over texts of −log softmax(logits)_gold in nats, from ``(n_texts,)`` and ``(n_texts, n_labels)``."""
    return -float(np.take_along_axis(_log_softmax(logits.astype(np.float64)), gold[:, None], axis=1).mean())


def measure_answered(gold: np.ndarray, logits: np.ndarray, abstain: float) -> dict[str, float | None]:
    """Share of texts whose score is not below ``abstain``, and the accuracy on those, None where there are none.

    Args:
        gold: ``(n_texts,)``.
        logits: ``(n_texts, n_labels)``.
        abstain: threshold on the likeliest label's probability.
    """
    answered = np.exp(_log_softmax(logits.astype(np.float64))).max(axis=-1) >= abstain
    right = (logits.argmax(axis=-1) == gold)[answered]
    return {"answered": float(answered.mean()), "answered_accuracy": float(right.mean()) if len(right) else None}


def agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Share of texts on which two sets of logits ``(n_texts, n_labels)`` name the same class; NaN names none."""
    same = reference.argmax(axis=-1) == other.argmax(axis=-1)
    return float((same & np.isfinite(other).all(axis=-1)).mean())


def mean_divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over texts of KL(softmax(reference) ‖ softmax(other)) in nats, from logits ``(n_texts, n_labels)``."""
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (reference, other))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

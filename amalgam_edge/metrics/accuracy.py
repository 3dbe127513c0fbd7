"""Comparing predictions with gold labels. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.metrics.uncertainty import log_softmax, sigmoid


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The share of texts whose predicted class is the gold class."""
    return float((gold == predicted).mean())


def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, n_labels: int) -> np.ndarray:
    """Counts by gold class (rows) and predicted class (columns), ``(n_labels, n_labels)``."""
    counts = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(counts, (gold, predicted), 1)
    return counts


def macro_f1(confusion: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """The mean F1 score over the classes that occur in gold labels or predictions.

    The F1 score of a class is 2 · hits / (n_gold + n_predicted).

    Args:
        confusion: Counts by gold and predicted class, ``(n_labels, n_labels)``.
        classes: The classes to take the mean over; all by default.
    """
    chosen = slice(None) if classes is None else list(classes)
    hits = np.diag(confusion)[chosen]
    totals = (confusion.sum(axis=0) + confusion.sum(axis=1))[chosen]
    occurring = totals > 0
    return float((2 * hits[occurring] / totals[occurring]).mean())


def accuracy_and_macro_f1(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 from counts by gold and predicted class, ``(n_labels, n_labels)``."""
    return {"accuracy": float(np.trace(confusion) / confusion.sum()), "macro_f1": macro_f1(confusion)}


def domain_accuracy_and_macro_f1(confusion: np.ndarray, classes: Sequence[int]) -> dict[str, float | None]:
    """Accuracy and macro-F1 on the texts whose gold class is one of a domain's.

    Predictions may be of any class. One outside the domain is a miss, and macro-F1 is the mean over the domain's
    classes alone.

    Args:
        confusion: Counts by gold and predicted class over all texts, ``(n_labels, n_labels)``.
        classes: The classes of the domain, each once.

    Returns:
        ``n_texts``, ``accuracy`` and ``macro_f1``; the last two are None if there are no such texts.
    """
    within = np.zeros_like(confusion)
    within[list(classes)] = confusion[list(classes)]
    n_texts = int(within.sum())
    if n_texts == 0:
        return {"n_texts": 0, "accuracy": None, "macro_f1": None}
    return {"n_texts": n_texts, "accuracy": float(np.trace(within) / n_texts), "macro_f1": macro_f1(within, classes)}


def negative_log_likelihood(gold: np.ndarray, logits: np.ndarray) -> float:
    """The mean over texts of −log softmax(logits)_gold, in nats.

    Args:
        gold: Gold classes, ``(n_texts,)``.
        logits: Logits, ``(n_texts, n_labels)``.
    """
    return -float(np.take_along_axis(log_softmax(logits.astype(np.float64)), gold[:, None], axis=1).mean())


def binary_negative_log_likelihood(gold: np.ndarray, logits: np.ndarray) -> float:
    """The mean over texts and labels of −log of the probability of what holds, yes or no, in nats.

    Args:
        gold: Whether each label holds, ``(n_texts, n_labels)`` of bool.
        logits: Logits ``(n_texts, n_labels)`` of labels that do not exclude each other.
    """
    wide = logits.astype(np.float64)
    return -float(_log_sigmoid(np.where(gold, wide, -wide)).mean())


def answered_share_and_accuracy(gold: np.ndarray, logits: np.ndarray, abstain: float) -> dict[str, float | None]:
    """The share of texts that are answered under a threshold, and the accuracy on these.

    Args:
        gold: Gold classes, ``(n_texts,)``.
        logits: Logits, ``(n_texts, n_labels)``.
        abstain: A text is answered if the probability of its likeliest label is at least this.

    Returns:
        ``answered`` and ``answered_accuracy``; the latter is None if no text is answered.
    """
    answered = np.exp(log_softmax(logits.astype(np.float64))).max(axis=-1) >= abstain
    right = (logits.argmax(axis=-1) == gold)[answered]
    return {"answered": float(answered.mean()), "answered_accuracy": float(right.mean()) if len(right) else None}


def label_set_scores(gold: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """How good sets of labels are, of which any number may hold.

    Args:
        gold: Whether each label holds, ``(n_texts, n_labels)`` of bool.
        predicted: Whether it is predicted to, ``(n_texts, n_labels)`` of bool.
        probabilities: The probability of each label, ``(n_texts, n_labels)``.

    Returns:
        ``accuracy``, the share of texts with all labels right; ``micro_f1`` over all labels of all texts; ``macro_f1``,
        the mean of F1 over the labels that occur; ``mean_average_precision`` over the labels that some text has, None
        if no text has any.
    """
    hits = (gold & predicted).sum(axis=0)
    totals = gold.sum(axis=0) + predicted.sum(axis=0)
    occurring = totals > 0
    precisions = [average_precision(gold[:, k], probabilities[:, k]) for k in range(gold.shape[1]) if gold[:, k].any()]
    return {
        "accuracy": float((gold == predicted).all(axis=1).mean()),
        "macro_f1": float((2 * hits[occurring] / totals[occurring]).mean()) if occurring.any() else 1.0,
        "micro_f1": float(2 * hits.sum() / totals.sum()) if occurring.any() else 1.0,
        "mean_average_precision": float(np.mean(precisions)) if precisions else None,
    }


def average_precision(gold: np.ndarray, scores: np.ndarray) -> float:
    """AP = Σ_n (R_n − R_{n−1}) · P_n, with precision and recall at each threshold (texts of equal score together).

    Args:
        gold: Whether the label holds, ``(n_texts,)`` of bool; for at least one text.
        scores: Scores, ``(n_texts,)``.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(gold[order])
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """The share of texts for which two sets of logits ``(n_texts, n_labels)`` predict the same class.

    Where ``other`` is not finite it predicts no class.
    """
    same = reference.argmax(axis=-1) == other.argmax(axis=-1)
    return float((same & np.isfinite(other).all(axis=-1)).mean())


def mean_divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """The mean over texts of KL(softmax(reference) ‖ softmax(other)) in nats, of logits ``(n_texts, n_labels)``."""
    p, q = (log_softmax(logits.astype(np.float64)) for logits in (reference, other))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def mean_binary_divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """The mean over texts of Σ_y KL(Bernoulli(sigmoid(reference_y)) ‖ Bernoulli(sigmoid(other_y))), in nats.

    Of logits ``(n_texts, n_labels)`` whose labels do not exclude each other.
    """
    r, o = (logits.astype(np.float64) for logits in (reference, other))
    yes, no = sigmoid(r), sigmoid(-r)
    divergence = yes * (_log_sigmoid(r) - _log_sigmoid(o)) + no * (_log_sigmoid(-r) - _log_sigmoid(-o))
    return float(divergence.sum(axis=-1).mean())


def label_agreement(answers: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each label, the share of texts on which two answers ``(n_texts, n_labels)`` are alike, ``(n_labels,)``."""
    share: np.ndarray = (answers == other).mean(axis=0)
    return share


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -logits)

"""Shares of labels in a corpus. Pure functions on arrays."""

from __future__ import annotations

import numpy as np

_STEPS = 8
_TINY = 1e-12


def label_shares(probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """What each label has of its group's mass, ``(n_labels,)``; the shares of a group add up to 1.

    Args:
        probabilities: ``(n_texts, n_labels)``.
        groups: which group each label is of, ``(n_labels,)``.
    """
    mean = probabilities.mean(axis=0)
    return mean / np.maximum(_totals(mean, groups), _TINY)


def with_shares(probabilities: np.ndarray, shares: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Probabilities under which each label has its share of its group's mass, ``(n_texts, n_labels)``.

    How the mass is divided between groups stays, but for what so few steps leave. Labels are multiplied by factors,
    rows brought to sum 1, in turn: iterative proportional fitting (Deming & Stephan, Annals of Mathematical Statistics
    11, 1940), which is the correction of a classifier for other priors (Saerens et al., Neural Computation 14, 2002).

    Args:
        probabilities: ``(n_texts, n_labels)``.
        shares: of each label in its group, as of :func:`label_shares`.
        groups: which group each label is of, ``(n_labels,)``.
    """
    wanted = shares * _totals(probabilities.mean(axis=0), groups)
    for _ in range(_STEPS):
        probabilities = probabilities * (wanted / np.maximum(probabilities.mean(axis=0), _TINY))
        probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), _TINY)
    return probabilities


def _totals(mass: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Of each label's group, ``(n_labels,)``."""
    total: np.ndarray = np.bincount(groups, weights=mass)[groups]
    return total

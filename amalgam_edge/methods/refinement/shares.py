"""Label shares: how the probability mass of a group of labels is divided between them. Pure functions on arrays."""

from __future__ import annotations

import numpy as np

_STEPS = 8
_TINY = 1e-12


def label_shares(probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The share of each label in the mass of its group, ``(n_labels,)``. The shares of a group add up to 1.

    Args:
        probabilities: Distributions over labels, ``(n_texts, n_labels)``.
        groups: The group of each label, ``(n_labels,)`` of int.
    """
    mean = probabilities.mean(axis=0)
    return mean / np.maximum(_group_mass(mean, groups), _TINY)


def adjust_to_shares(probabilities: np.ndarray, shares: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Probabilities rescaled so that each label has a given share of its group's mass, ``(n_texts, n_labels)``.

    P_y(x) ∝ c_y · P_y(x), with one factor c_y per label. The factors are found by iterative proportional fitting
    (Deming & Stephan, Annals of Mathematical Statistics 11, 1940), which is also how a classifier is corrected for
    other class priors (Saerens et al., Neural Computation 14, 2002). The mass of each group stays as it is, up to what
    the small, fixed number of steps leaves.

    Args:
        probabilities: Distributions over labels, ``(n_texts, n_labels)``.
        shares: The share of each label in its group, as :func:`label_shares` returns them, ``(n_labels,)``.
        groups: The group of each label, ``(n_labels,)`` of int.
    """
    target_mean = shares * _group_mass(probabilities.mean(axis=0), groups)
    for _ in range(_STEPS):
        probabilities = probabilities * (target_mean / np.maximum(probabilities.mean(axis=0), _TINY))
        probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), _TINY)
    return probabilities


def _group_mass(mass: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each label, the total mass of its group, ``(n_labels,)``."""
    total: np.ndarray = np.bincount(groups, weights=mass)[groups]
    return total

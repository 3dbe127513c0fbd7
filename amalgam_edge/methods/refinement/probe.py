"""The probe: a linear classifier on frozen features that stands in for the student.

It is multinomial logistic regression on soft targets, fitted in folds. The prediction for a text comes from a fit to
the other folds, so that it does not echo that text's own target (cross-fitting, arXiv 1608.00060).
"""

from __future__ import annotations

import numpy as np
import torch

from amalgam_edge.numerics.components import principal_components
from amalgam_edge.numerics.linear import apply_linear, fit_linear

N_FOLDS = 4
WIDTH = 128
MOST_TEXTS = 20_000
_STEPS = 25


class Probe:
    """Cross-fitted logistic regression on the same texts, fitted to one target after another.

    Each fit starts from the previous one, so later rounds are cheap. Each fold is fitted to at most ``MOST_TEXTS``
    texts.

    Args:
        features: Features of the texts, ``(n_texts, width)``. Only their first ``WIDTH`` principal components are used.
        seed: Seed of the division into folds.
    """

    def __init__(self, features: np.ndarray, seed: int = 0) -> None:
        n_texts = len(features)
        generator = np.random.default_rng(seed)
        self._fold = generator.permutation(n_texts) % N_FOLDS
        self._training_rows = [
            generator.permutation(np.flatnonzero(self._fold != fold))[:MOST_TEXTS] for fold in np.unique(self._fold)
        ]
        self._inputs = _scale_to_unit_size(torch.from_numpy(principal_components(features, WIDTH)).double())
        self._weights: list[torch.Tensor | None] = [None for _ in self._training_rows]

    def fit_predict(self, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Fit to a weighted target and return the predicted probabilities, ``(n_texts, n_labels)``.

        Each fold minimises mean_x v(x) · cross-entropy(target(x), softmax(W x + b)), with v scaled to mean 1 over all
        texts and the penalty of :func:`amalgam_edge.numerics.linear.fit_linear`, in a fixed number of steps.

        Args:
            target: Target distributions, ``(n_texts, n_labels)``.
            weight: The text weights v, ``(n_texts,)``.
        """
        weighted_target = torch.from_numpy(np.ascontiguousarray(target * (weight / weight.mean())[:, None]))
        logits = torch.empty_like(weighted_target)
        for fold, training_rows in enumerate(self._training_rows):
            rows = torch.from_numpy(training_rows)
            fitted = self._fit(rows, weighted_target[rows], start=self._weights[fold])
            self._weights[fold] = fitted
            held_out = torch.from_numpy(np.flatnonzero(self._fold == fold))
            logits[held_out] = apply_linear(fitted, self._inputs[held_out])
        return torch.softmax(logits, dim=1).numpy()

    def _fit(self, rows: torch.Tensor, weighted_target: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
            return -(weighted_target * torch.log_softmax(logits, dim=1)).sum() / len(weighted_target)

        return fit_linear(self._inputs[rows], weighted_target.shape[1], cross_entropy, steps=_STEPS, start=start)


def _scale_to_unit_size(vectors: torch.Tensor) -> torch.Tensor:
    """The vectors scaled so that their mean squared norm is 1. If all are zero they stay zero."""
    return vectors / vectors.square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(vectors.dtype).tiny)

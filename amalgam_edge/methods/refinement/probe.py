"""A light stand-in for the student: a linear classifier on frozen features, for texts that it was not fitted to.

Multinomial logistic regression on soft targets, fitted in folds: what it says of a text comes from the other folds'
texts alone, so that it does not echo that text's own target (cross-fitting, arXiv 1608.00060).
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
    """Cross-fitted logistic regression on the same texts under one target after another.

    Args:
        features: ``(n_texts, width)``; their first ``WIDTH`` principal components are read.
        seed: of the folds.

    A fit starts from the one before, so rounds are cheap; each fold is fitted to at most ``MOST_TEXTS`` texts.
    """

    def __init__(self, features: np.ndarray, seed: int = 0) -> None:
        n_texts = len(features)
        generator = np.random.default_rng(seed)
        self._fold = generator.permutation(n_texts) % min(N_FOLDS, n_texts)
        self._fitted_to = [
            generator.permutation(np.flatnonzero(self._fold != fold))[:MOST_TEXTS] for fold in np.unique(self._fold)
        ]
        self._inputs = _of_unit_size(torch.from_numpy(principal_components(features, WIDTH)).double())
        self._weights: list[torch.Tensor | None] = [None for _ in self._fitted_to]

    def __call__(self, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Fit to a target under weights, and return the probabilities that it gives, ``(n_texts, n_labels)``.

        What is minimised is mean v(x) · cross-entropy(target(x), softmax(W x + b)), v of mean 1, with the penalty of
        :func:`amalgam_edge.numerics.linear.fit_linear`, in a fixed number of steps.

        Args:
            target: distributions, ``(n_texts, n_labels)``.
            weight: v, ``(n_texts,)``.
        """
        aim = torch.from_numpy(np.ascontiguousarray(target * (weight / weight.mean())[:, None]))
        logits = torch.empty_like(aim)
        for fold, rows in enumerate(self._fitted_to):
            own = torch.from_numpy(rows)
            self._weights[fold] = fitted = self._fit(own, aim[own], self._weights[fold])
            left_out = torch.from_numpy(np.flatnonzero(self._fold == fold))
            logits[left_out] = apply_linear(fitted, self._inputs[left_out])
        return torch.softmax(logits, dim=1).numpy()

    def _fit(self, rows: torch.Tensor, aim: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        def loss(logits: torch.Tensor) -> torch.Tensor:
            return -(aim * torch.log_softmax(logits, dim=1)).sum() / len(aim)

        return fit_linear(self._inputs[rows], aim.shape[1], loss, steps=_STEPS, start=start)


def _of_unit_size(vectors: torch.Tensor) -> torch.Tensor:
    """The same, of mean square norm 1; where all are zero they stay so."""
    return vectors / vectors.square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(vectors.dtype).tiny)

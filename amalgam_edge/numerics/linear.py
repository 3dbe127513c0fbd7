"""Linear classifiers on fixed vectors, fitted under any loss on logits."""

from __future__ import annotations

from collections.abc import Callable

import torch

PENALTY = 0.3


def fit_linear(
    inputs: torch.Tensor,
    n_labels: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    steps: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Minimise loss(inputs · W + b) + PENALTY / 2n · ‖W‖² by L-BFGS, where n is the number of texts.

    Args:
        inputs: Vectors ``(n_texts, width)`` of float64, with a mean squared norm of about 1.
        n_labels: Number of columns of W.
        loss: Function logits ``(n_texts, n_labels)`` → mean loss over the texts, a scalar.
        steps: The largest number of optimiser steps.
        start: Initial weights, of the same shape as the result. Zeros by default.

    Returns:
        W with b as the last row, ``(width + 1, n_labels)``.
    """
    n_texts, width = inputs.shape
    weights = inputs.new_zeros(width + 1, n_labels) if start is None else start.clone()
    weights.requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, history_size=6, line_search_fn="strong_wolfe")

    def penalised_loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(apply_linear(weights, inputs)) + PENALTY / 2 / n_texts * weights[:-1].square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(penalised_loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def apply_linear(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The logits inputs · W + b, ``(n_texts, n_labels)``; ``weights`` is W with b as the last row."""
    return inputs @ weights[:-1] + weights[-1]

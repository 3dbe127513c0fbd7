"""Linear classifiers on given vectors, fitted under any loss on logits."""

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
    """Minimise loss(inputs · W + b) + PENALTY / 2n · |W|² by L-BFGS, for at most so many steps.

    Args:
        inputs: ``(n_texts, width)`` of float64, of mean square norm 1 or so.
        n_labels: columns of W.
        loss: logits ``(n_texts, n_labels)`` → a scalar, the mean over texts.
        steps: of the optimiser.
        start: what it begins with, of the shape that is returned; zeros by default.

    Returns:
        W with b below it, ``(width + 1, n_labels)``.
    """
    n_texts, width = inputs.shape
    weights = inputs.new_zeros(width + 1, n_labels) if start is None else start.clone()
    weights.requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, history_size=6, line_search_fn="strong_wolfe")

    def penalised() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(apply_linear(weights, inputs)) + PENALTY / 2 / n_texts * weights[:-1].square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(penalised)  # type: ignore[no-untyped-call]
    return weights.detach()


def apply_linear(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Logits ``(n_texts, n_labels)``: inputs · W + b."""
    return inputs @ weights[:-1] + weights[-1]

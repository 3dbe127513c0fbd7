"""Objectives beside the same equations in float64 numpy: the loss, and its gradient by central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from amalgam_edge.methods import Batch, Objective

Arrays = dict[str, np.ndarray]
STEP = 1e-5
# (each teacher's columns, its width, the student's width)
CASES = {
    "widths differ": (((0, 1), (2, 3)), (3, 5), 4),
    "shared labels": (((0, 1), (1, 2)), (3, 3), 3),
    "one teacher": (((0, 1),), (2,), 6),
    "three": (((0, 1), (1, 2), (3, 0)), (2, 3, 4), 2),
}


def random_batch(columns, teacher_widths, student_width, *, n_texts=5, seed=0) -> Batch:
    """Logits, targets, weights and hidden states of some texts; teachers' widths may be none."""
    rng = np.random.default_rng(seed)
    n_labels = 1 + max(max(own) for own in columns)

    def drawn(*shape):
        return torch.tensor(rng.normal(size=shape), dtype=torch.float32)

    return Batch(
        logits=2 * drawn(n_texts, n_labels),
        hidden=drawn(n_texts, student_width),
        target=torch.softmax(2 * drawn(n_texts, n_labels), dim=-1),
        weight=torch.tensor(rng.uniform(0.2, 2.0, size=n_texts), dtype=torch.float32),
        teacher_logits=tuple(2 * drawn(n_texts, len(own)) for own in columns),
        teacher_hidden=tuple(drawn(n_texts, width) for width in teacher_widths),
    )


def assert_as_by_hand(objective: Objective, batch: Batch, by_hand: Callable[[Arrays, Arrays], float]) -> None:
    """The objective's loss and its gradients, in float32, are those of ``by_hand``.

    Args:
        objective: its parameters are taken by their names.
        batch: the student's part of it is differentiated too.
        by_hand: (values, the same as they were) → loss. Differences are taken of the first; what lets no gradient
            through is computed from the second.
    """
    leaves = {**dict(objective.named_parameters()), "logits": batch.logits, "hidden": batch.hidden}
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = objective(batch)
    loss.backward()
    values = {name: leaf.detach().double().numpy().copy() for name, leaf in leaves.items()}
    assert loss.shape == ()
    np.testing.assert_allclose(loss.item(), by_hand(values, values), rtol=2e-5)
    for name, leaf in leaves.items():
        found = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.double().numpy()
        np.testing.assert_allclose(found, _differences(values, name, by_hand), atol=3e-5, rtol=2e-3, err_msg=name)


def _differences(values: Arrays, name: str, by_hand: Callable[[Arrays, Arrays], float]) -> np.ndarray:
    slopes = np.zeros_like(values[name])
    for place in np.ndindex(slopes.shape):
        moved = []
        for step in (STEP, -STEP):
            shifted = values[name].copy()
            shifted[place] += step
            moved.append(by_hand({**values, name: shifted}, values))
        slopes[place] = (moved[0] - moved[1]) / (2 * STEP)
    return slopes


def vanilla_by_hand(logits: np.ndarray, target: np.ndarray, weight: np.ndarray, temperature: float) -> float:
    """T² · mean_x v Σ_y t (log t − log softmax(logits / T)), text by text."""
    total = 0.0
    for row, wanted, v in zip(logits, target, weight, strict=True):
        softened = np.exp(row / temperature)
        total += v * float((wanted * (np.log(wanted) - np.log(softened / softened.sum()))).sum())
    return temperature**2 * total / len(logits)


def in_float64(batch: Batch) -> Arrays:
    """What an objective reads of a batch and does not differentiate."""
    numbered = {
        f"{name}{i}": part
        for name in ("teacher_logits", "teacher_hidden")
        for i, part in enumerate(getattr(batch, name))
    }
    kept = {"target": batch.target, "weight": batch.weight, **numbered}
    return {name: tensor.detach().double().numpy() for name, tensor in kept.items()}

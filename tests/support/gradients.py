"""Compares objectives with the same equations in float64 numpy: the loss, and its gradient by central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from amalgam_edge.methods.objectives import Objective, TrainingBatch

Arrays = dict[str, np.ndarray]
STEP = 1e-5
# name → (columns of each teacher, hidden width of each teacher, hidden width of the student)
CASES = {
    "widths differ": (((0, 1), (2, 3)), (3, 5), 4),
    "shared labels": (((0, 1), (1, 2)), (3, 3), 3),
    "one teacher": (((0, 1),), (2,), 6),
    "three": (((0, 1), (1, 2), (3, 0)), (2, 3, 4), 2),
}


def random_batch(columns, teacher_widths, student_width, *, n_texts=5, seed=0) -> TrainingBatch:
    """A random batch. ``teacher_widths`` may be empty."""
    rng = np.random.default_rng(seed)
    n_labels = 1 + max(max(of_teacher) for of_teacher in columns)

    def normal(*shape):
        return torch.tensor(rng.normal(size=shape), dtype=torch.float32)

    return TrainingBatch(
        logits=2 * normal(n_texts, n_labels),
        hidden=normal(n_texts, student_width),
        target=torch.softmax(2 * normal(n_texts, n_labels), dim=-1),
        weight=torch.tensor(rng.uniform(0.2, 2.0, size=n_texts), dtype=torch.float32),
        teacher_logits=tuple(2 * normal(n_texts, len(of_teacher)) for of_teacher in columns),
        teacher_hidden=tuple(normal(n_texts, width) for width in teacher_widths),
    )


def assert_matches_equations(
    objective: Objective, batch: TrainingBatch, equations: Callable[[Arrays, Arrays], float]
) -> None:
    """Assert that the objective's loss and gradients, in float32, are those of ``equations`` in float64.

    Args:
        objective: The objective. Its parameters are passed to ``equations`` by their names.
        batch: The batch. The student's logits and hidden states are differentiated too.
        equations: Function (values, constant values) → loss. Central differences are taken of the first argument. The
            second holds the same values unchanged; what lets no gradient through is computed from it.
    """
    leaves = {**dict(objective.named_parameters()), "logits": batch.logits, "hidden": batch.hidden}
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = objective(batch)
    loss.backward()
    values = {name: leaf.detach().double().numpy().copy() for name, leaf in leaves.items()}
    assert loss.shape == ()
    np.testing.assert_allclose(loss.item(), equations(values, values), rtol=2e-5)
    for name, leaf in leaves.items():
        found = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.double().numpy()
        np.testing.assert_allclose(found, _differences(values, name, equations), atol=3e-5, rtol=2e-3, err_msg=name)


def _differences(values: Arrays, name: str, equations: Callable[[Arrays, Arrays], float]) -> np.ndarray:
    slopes = np.zeros_like(values[name])
    for place in np.ndindex(slopes.shape):
        moved = []
        for step in (STEP, -STEP):
            shifted = values[name].copy()
            shifted[place] += step
            moved.append(equations({**values, name: shifted}, values))
        slopes[place] = (moved[0] - moved[1]) / (2 * STEP)
    return slopes


def vanilla_kd_loss(logits: np.ndarray, target: np.ndarray, weight: np.ndarray, temperature: float) -> float:
    """T² · mean_x v Σ_y t (log t − log softmax(logits / T)), text by text."""
    total = 0.0
    for row, target_row, v in zip(logits, target, weight, strict=True):
        softened = np.exp(row / temperature)
        total += v * float((target_row * (np.log(target_row) - np.log(softened / softened.sum()))).sum())
    return temperature**2 * total / len(logits)


def in_float64(batch: TrainingBatch) -> Arrays:
    """What an objective reads of a batch without differentiating it: target, weight and the teachers' signals."""
    numbered = {
        f"{name}{i}": part
        for name in ("teacher_logits", "teacher_hidden")
        for i, part in enumerate(getattr(batch, name))
    }
    constants = {"target": batch.target, "weight": batch.weight, **numbered}
    return {name: tensor.detach().double().numpy() for name, tensor in constants.items()}

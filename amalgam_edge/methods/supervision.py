"""Supervision: from the teachers' scores to a target distribution and a weight for each text. Pure functions on arrays.

The equations are those of "Model Uncertainty-Aware Knowledge Amalgamation for Pre-Trained Language Models"
(arXiv 2112.07327).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.labels import LabelSpace
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.scoring.scores import TeacherScores, certainty

MARGIN_FLOOR = 1e-6


@dataclass(frozen=True)
class Supervision:
    """What the student is trained on in place of gold labels.

    Attributes:
        target: The probability of each label, ``(n_texts, n_labels)`` of float32; of a softmax head a distribution. The
            labels of several heads stand side by side.
        weight: The weight of each text in the loss, ``(n_texts,)`` of float32; ``(n_texts, n_heads)`` for several.
        picked: The most trusted teacher of each text as a position among the head's teachers, ``(n_texts,)``, or
            ``(n_texts, n_heads)``. −1 if the method prefers no teacher.
    """

    target: np.ndarray
    weight: np.ndarray
    picked: np.ndarray

    def take(self, rows: np.ndarray) -> Supervision:
        """The supervision of a selection of texts, in the order of ``rows``."""
        return Supervision(self.target[rows], self.weight[rows], self.picked[rows])

    def digest(self) -> str:
        """SHA-256 of the values of target and weight, independent of their memory layout and byte order."""
        content = hashlib.sha256()
        for array in (self.target, self.weight):
            content.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return content.hexdigest()


def join(parts: Sequence[Supervision]) -> Supervision:
    """The supervision of several heads over the same texts, side by side; of one head it is that head's own."""
    if len(parts) == 1:
        return parts[0]
    return Supervision(
        np.concatenate([part.target for part in parts], axis=1),
        np.stack([part.weight for part in parts], axis=1),
        np.stack([part.picked for part in parts], axis=1),
    )


def soft_weights(certainties: np.ndarray, score_temperature: float) -> np.ndarray:
    """Teacher weights w = softmax(s / τ), ``(n_texts, n_teachers)``."""
    return softmax(certainties, score_temperature)


def energy(scores: Sequence[TeacherScores], temperature: float) -> np.ndarray:
    """The log-sum-exp of each teacher's logits, e_i(x) = log Σ_y exp(f_iy(x) / T), ``(n_texts, n_teachers)``.

    The softmax of e over the teachers is the mass of each teacher's classes in the softmax of all logits concatenated.
    """
    energies = [np.logaddexp.reduce(teacher.logits.astype(np.float64) / temperature, axis=1) for teacher in scores]
    return np.stack(energies, axis=1)


def hard_weights(certainties: np.ndarray) -> np.ndarray:
    """Weight 1 for the most certain teacher (the first one on ties) and 0 for the others, ``(n_texts, n_teachers)``."""
    return np.eye(certainties.shape[1])[certainties.argmax(axis=1)]


def margin(values: np.ndarray) -> np.ndarray:
    """The difference of the two largest values of each text, v = s₍₁₎ − s₍₂₎ + 1e-6, ``(n_texts,)``.

    Args:
        values: Certainties ``(n_texts, n_teachers)`` or a target ``(n_texts, n_labels)``. If there is only one column,
            the margin of every text is 1.
    """
    if values.shape[1] == 1:
        return np.ones(len(values))
    ordered = np.sort(values, axis=1)
    return ordered[:, -1] - ordered[:, -2] + MARGIN_FLOOR


def mix_targets(scores: Sequence[TeacherScores], weights: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """target(x) = Σ_i w_i(x) · pad(p_i(x)), ``(n_texts, n_labels)``. Masses on a shared label add up."""
    target = np.zeros((len(weights), len(labels)))
    for teacher, weight in zip(scores, weights.T, strict=True):
        target += weight[:, None] * labels.pad(teacher.teacher, teacher.probabilities.astype(np.float64))
    return target


def from_weights(
    scores: Sequence[TeacherScores], weights: np.ndarray, labels: LabelSpace, *, reweight: bool
) -> Supervision:
    """Supervision from teacher weights.

    Args:
        scores: The scores of each teacher.
        weights: Teacher weights, ``(n_texts, n_teachers)``.
        labels: The label space.
        reweight: Whether each text weighs its margin of certainty; otherwise all weigh 1.
    """
    certainties = certainty(scores)
    weight = margin(certainties) if reweight else np.ones(len(weights))
    return Supervision(
        target=mix_targets(scores, weights, labels).astype(np.float32),
        weight=weight.astype(np.float32),
        picked=certainties.argmax(axis=1),
    )


def from_labels(gold: np.ndarray, n_labels: int) -> Supervision:
    """Supervision from gold labels ``(n_texts,)``. Teachers and reference students are trained on it."""
    return from_targets(np.eye(n_labels)[gold])


def from_targets(target: np.ndarray) -> Supervision:
    """Supervision from one distribution per text, ``(n_texts, n_labels)``. Every text weighs 1."""
    return Supervision(
        target=target.astype(np.float32),
        weight=np.ones(len(target), dtype=np.float32),
        picked=np.full(len(target), -1),
    )

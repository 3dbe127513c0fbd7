"""From the teachers' scores to a target and a weight for each text. Pure functions on arrays.

Equations: "Model Uncertainty-Aware Knowledge Amalgamation for Pre-Trained Language Models", arXiv 2112.07327.
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
    """What stands in for the golden label of each text.

    Attributes:
        target: a distribution over the label space, ``(n_texts, n_labels)`` of float32.
        weight: of each text in the loss, ``(n_texts,)`` of float32.
        picked: the most trusted teacher, a position in the label space's teachers, ``(n_texts,)``; −1 where the
            method trusts none more than another.
    """

    target: np.ndarray
    weight: np.ndarray
    picked: np.ndarray

    def take(self, rows: np.ndarray) -> Supervision:
        """The same supervision for a selection of texts, in the order of ``rows``."""
        return Supervision(self.target[rows], self.weight[rows], self.picked[rows])

    def digest(self) -> str:
        """SHA-256 of target and weight, the same wherever they are the same to the bit."""
        content = hashlib.sha256()
        for array in (self.target, self.weight):
            content.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return content.hexdigest()


def soft_weights(certainties: np.ndarray, score_temperature: float) -> np.ndarray:
    """W = softmax(s / τ) over the teachers, ``(n_texts, n_teachers)``."""
    return softmax(certainties, score_temperature)


def energy(scores: Sequence[TeacherScores], temperature: float) -> np.ndarray:
    """e_i(x) = log Σ_y exp(f_iy(x) / T), ``(n_texts, n_teachers)``.

    Its softmax over the teachers is what mass each has in the softmax of all logits at temperature T.
    """
    energies = [np.logaddexp.reduce(teacher.logits.astype(np.float64) / temperature, axis=1) for teacher in scores]
    return np.stack(energies, axis=1)


def hard_weights(certainties: np.ndarray) -> np.ndarray:
    """All weight on the most certain teacher (the first of equals), ``(n_texts, n_teachers)``."""
    return np.eye(certainties.shape[1])[certainties.argmax(axis=1)]


def margin(values: np.ndarray) -> np.ndarray:
    """V = s₍₁₎ − s₍₂₎ + 1e-6, ``(n_texts,)``, between the two most certain teachers, or the two likeliest labels.

    Args:
        values: certainties ``(n_texts, n_teachers)`` or a target ``(n_texts, n_labels)``; of one column all weigh 1.
    """
    if values.shape[1] == 1:
        return np.ones(len(values))
    ordered = np.sort(values, axis=1)
    return ordered[:, -1] - ordered[:, -2] + MARGIN_FLOOR


def mix_targets(scores: Sequence[TeacherScores], weights: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Σ_i w_i(x) · pad(p_i(x)), ``(n_texts, n_labels)``; masses on a shared label add up."""
    target = np.zeros((len(weights), len(labels)))
    for teacher, weight in zip(scores, weights.T, strict=True):
        target += weight[:, None] * labels.pad(teacher.teacher, teacher.probabilities.astype(np.float64))
    return target


def from_weights(
    scores: Sequence[TeacherScores], weights: np.ndarray, labels: LabelSpace, *, reweight: bool
) -> Supervision:
    """Supervision by teacher weights ``(n_texts, n_teachers)``, each text weighted by its margin if ``reweight``."""
    certainties = certainty(scores)
    text_weight = margin(certainties) if reweight else np.ones(len(weights))
    return Supervision(
        target=mix_targets(scores, weights, labels).astype(np.float32),
        weight=text_weight.astype(np.float32),
        picked=certainties.argmax(axis=1),
    )


def from_labels(gold: np.ndarray, n_labels: int) -> Supervision:
    """Supervision by true labels ``(n_texts,)``: for teachers, and for the reference that labels would give."""
    return from_targets(np.eye(n_labels)[gold])


def from_targets(target: np.ndarray) -> Supervision:
    """Supervision by one distribution a text, ``(n_texts, n_labels)``, each of the same weight."""
    return Supervision(
        target=target.astype(np.float32),
        weight=np.ones(len(target), dtype=np.float32),
        picked=np.full(len(target), -1),
    )

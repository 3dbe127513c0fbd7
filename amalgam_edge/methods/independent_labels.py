"""Supervision of a sigmoid head: teachers of the same label are amalgamated label by label.

A teacher's certainty of a label is s_iy(x) = 1 − H(p̄_iy(x)) / log 2, with p̄ the mean over dropout passes: the certainty
of MUKA (arXiv 2112.07327) for a question with two answers. Teachers that do not have the label have no say in it.
"""

from __future__ import annotations

import numpy as np

from amalgam_edge.methods.method import MethodInputs
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.uncertainty import binary_entropy, sigmoid, softmax
from amalgam_edge.recipe.sections import MethodSettings


def supervise_softly(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target_y(x) = Σ_i w_iy(x) · p_iy(x), w_y = softmax(s_y / τ) over the teachers of the label."""
    certainties, known = _certainties(inputs)
    weights = softmax(np.where(known, certainties, -np.inf).transpose(0, 2, 1), settings.score_temperature)
    return _from_weights(inputs, weights.transpose(0, 2, 1), certainties)


def supervise_hard(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target_y(x) = p_iy(x) of the teacher of the label that is the most certain of it, the first one on ties."""
    certainties, known = _certainties(inputs)
    best = np.where(known, certainties, -np.inf).argmax(axis=1)
    weights = (np.arange(len(inputs.scores))[None, :, None] == best[:, None, :]).astype(float)
    return _from_weights(inputs, weights, certainties)


def supervise_evenly(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target_y(x) = the mean over the teachers of the label of sigmoid(f_iy(x) / T)."""
    temperature = settings.distillation_temperature
    softened = [sigmoid(teacher.logits.astype(np.float64) / temperature) for teacher in inputs.scores]
    padded = np.stack([inputs.labels.pad(t.teacher, p) for t, p in zip(inputs.scores, softened, strict=True)], axis=1)
    target = padded.sum(axis=1) / inputs.labels.knowledge.sum(axis=1)
    return _supervision(target, np.full(len(target), -1))


def _certainties(inputs: MethodInputs) -> tuple[np.ndarray, np.ndarray]:
    """S ``(n_texts, n_teachers, n_labels)``, 0 where a teacher lacks the label, and whether it has it, of bool."""
    labels = inputs.labels
    certainties = [
        labels.pad(teacher.teacher, 1.0 - binary_entropy(teacher.mean_probabilities.astype(np.float64)) / np.log(2.0))
        for teacher in inputs.scores
    ]
    return np.stack(certainties, axis=1), labels.knowledge.T[None] > 0


def _from_weights(inputs: MethodInputs, weights: np.ndarray, certainties: np.ndarray) -> Supervision:
    """Supervision from the weight of each teacher for each label, ``(n_texts, n_teachers, n_labels)``."""
    target = np.zeros((len(weights), len(inputs.labels)))
    for position, teacher in enumerate(inputs.scores):
        target += weights[:, position] * inputs.labels.pad(teacher.teacher, teacher.probabilities.astype(np.float64))
    mean_certainty = certainties.sum(axis=2) / inputs.labels.knowledge.sum(axis=0)
    return _supervision(target, mean_certainty.argmax(axis=1))


def _supervision(target: np.ndarray, picked: np.ndarray) -> Supervision:
    return Supervision(target.astype(np.float32), np.ones(len(target), dtype=np.float32), picked)

"""Vanilla distillation: the student imitates the softmax of the teachers' concatenated logits (arXiv 1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amalgam_edge.methods.independent_labels import supervise_evenly
from amalgam_edge.methods.losses import weighted_binary_divergence, weighted_divergence
from amalgam_edge.methods.method import Method, MethodInputs
from amalgam_edge.methods.supervision import Supervision, from_targets
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.recipe.sections import MethodSettings

if TYPE_CHECKING:
    import torch


def supervise(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target(x) = softmax([f_1(x), …, f_N(x)] / T); masses on a shared label are added; every text weighs 1."""
    scores, labels = inputs.scores, inputs.labels
    logits = np.concatenate([teacher.logits for teacher in scores], axis=1).astype(np.float64)
    joint = softmax(logits, settings.distillation_temperature)
    parts = np.split(joint, np.cumsum([teacher.logits.shape[1] for teacher in scores])[:-1], axis=1)
    target = sum(labels.pad(teacher.teacher, part) for teacher, part in zip(scores, parts, strict=True))
    return from_targets(np.asarray(target))


def loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, settings: MethodSettings) -> torch.Tensor:
    """T² · mean_x v(x) · KL(target(x) ‖ softmax(logits(x) / T)), a scalar."""
    temperature = settings.distillation_temperature
    return temperature**2 * weighted_divergence(logits / temperature, target, weight)


def label_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, settings: MethodSettings
) -> torch.Tensor:
    """T² · mean_x v(x) · Σ_y KL(target_y(x) ‖ sigmoid(logits_y(x) / T)), a scalar."""
    temperature = settings.distillation_temperature
    return temperature**2 * weighted_binary_divergence(logits / temperature, target, weight)


METHOD = Method(
    name="vanilla-kd",
    summary="softmax of the concatenated logits at temperature T (the baseline)",
    paper="arXiv 1503.02531",
    parameters=("distillation_temperature",),
    supervise=supervise,
    loss=loss,
    supervise_labels=supervise_evenly,
    label_loss=label_loss,
)

"""Vanilla distillation: the student imitates the softmax of the teachers' concatenated logits."""

from __future__ import annotations

import numpy as np
import torch

from amalgam_edge.methods.method import Evidence, Method
from amalgam_edge.methods.muka_loss import weighted_divergence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.recipe.sections import MethodSettings


def supervise(evidence: Evidence, settings: MethodSettings) -> Supervision:
    """target(x) = softmax([f_1(x), …, f_N(x)] / T), masses on a shared label added; every text weighs the same."""
    scores, labels = evidence.scores, evidence.labels
    logits = np.concatenate([teacher.logits for teacher in scores], axis=1).astype(np.float64)
    joint = softmax(logits, settings.distillation_temperature)
    parts = np.split(joint, np.cumsum([teacher.logits.shape[1] for teacher in scores])[:-1], axis=1)
    target = sum(labels.pad(teacher.teacher, part) for teacher, part in zip(scores, parts, strict=True))
    return Supervision(
        target=np.asarray(target, dtype=np.float32),
        weight=np.ones(len(joint), dtype=np.float32),
        picked=np.full(len(joint), -1),
    )


def loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, settings: MethodSettings) -> torch.Tensor:
    """T² · mean KL(target ‖ softmax(logits / T)) (Hinton et al., arXiv 1503.02531)."""
    temperature = settings.distillation_temperature
    return temperature**2 * weighted_divergence(logits / temperature, target, weight)


METHOD = Method(
    name="vanilla-kd",
    summary="softmax of the concatenated logits at temperature T (the baseline)",
    paper="arXiv 1503.02531",
    parameters=("distillation_temperature",),
    supervise=supervise,
    loss=loss,
)

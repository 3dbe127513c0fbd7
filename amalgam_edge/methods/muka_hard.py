"""MUKA-hard: the most certain teacher alone provides the target (arXiv 2112.07327)."""

from __future__ import annotations

from amalgam_edge.methods.independent_labels import supervise_hard
from amalgam_edge.methods.losses import weighted_binary_divergence, weighted_divergence
from amalgam_edge.methods.method import Method, MethodInputs
from amalgam_edge.methods.supervision import Supervision, from_weights, hard_weights
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import certainty


def supervise(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target(x) = pad(p_i*(x)), i* = argmax_i s_i(x); text weight v(x) = s₍₁₎ − s₍₂₎ + 1e-6."""
    weights = hard_weights(certainty(inputs.scores))
    return from_weights(inputs.scores, weights, inputs.labels, reweight=settings.reweight)


METHOD = Method(
    name="muka-hard",
    summary="the teacher with the highest Monte-Carlo-dropout certainty",
    paper="arXiv 2112.07327",
    parameters=("reweight",),
    supervise=supervise,
    loss=weighted_divergence,
    supervise_labels=supervise_hard,
    label_loss=weighted_binary_divergence,
)

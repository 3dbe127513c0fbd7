"""MUKA-hard: the most certain teacher alone speaks."""

from __future__ import annotations

from amalgam_edge.methods.method import Evidence, Method
from amalgam_edge.methods.muka_loss import weighted_divergence
from amalgam_edge.methods.supervision import Supervision, from_weights, hard_weights
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import certainty


def supervise(evidence: Evidence, settings: MethodSettings) -> Supervision:
    """target(x) = pad(p_i*(x)), i* = argmax_i s_i(x); v(x) = s₍₁₎ − s₍₂₎ + 1e-6."""
    weights = hard_weights(certainty(evidence.scores))
    return from_weights(evidence.scores, weights, evidence.labels, reweight=settings.reweight)


METHOD = Method(
    name="muka-hard",
    summary="the teacher with the highest Monte-Carlo-dropout certainty",
    paper="arXiv 2112.07327",
    parameters=("reweight",),
    supervise=supervise,
    loss=weighted_divergence,
)

"""MUKA-soft: every teacher speaks, the more certain ones louder."""

from __future__ import annotations

from amalgam_edge.methods.method import Evidence, Method
from amalgam_edge.methods.muka_loss import weighted_divergence
from amalgam_edge.methods.supervision import Supervision, from_weights, soft_weights
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import certainty


def supervise(evidence: Evidence, settings: MethodSettings) -> Supervision:
    """target(x) = Σ_i w_i(x) · pad(p_i(x)), w = softmax(s / τ); v(x) = s₍₁₎ − s₍₂₎ + 1e-6."""
    weights = soft_weights(certainty(evidence.scores), settings.score_temperature)
    return from_weights(evidence.scores, weights, evidence.labels, reweight=settings.reweight)


METHOD = Method(
    name="muka-soft",
    summary="teachers weighted by softmax of their Monte-Carlo-dropout certainty",
    paper="arXiv 2112.07327",
    parameters=("score_temperature", "reweight"),
    supervise=supervise,
    loss=weighted_divergence,
)

"""MUKA-soft: all teachers contribute to the target, weighted by their certainty (arXiv 2112.07327)."""

from __future__ import annotations

from amalgam_edge.methods.independent_labels import supervise_softly
from amalgam_edge.methods.losses import weighted_binary_divergence, weighted_divergence
from amalgam_edge.methods.method import Method, MethodInputs
from amalgam_edge.methods.supervision import Supervision, from_weights, soft_weights
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import certainty


def supervise(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target(x) = Σ_i w_i(x) · pad(p_i(x)), w = softmax(s / τ); text weight v(x) = s₍₁₎ − s₍₂₎ + 1e-6."""
    weights = soft_weights(certainty(inputs.scores), settings.score_temperature)
    return from_weights(inputs.scores, weights, inputs.labels, reweight=settings.reweight)


METHOD = Method(
    name="muka-soft",
    summary="teachers weighted by softmax of their Monte-Carlo-dropout certainty",
    paper="arXiv 2112.07327",
    parameters=("score_temperature", "reweight"),
    supervise=supervise,
    loss=weighted_divergence,
    supervise_labels=supervise_softly,
    label_loss=weighted_binary_divergence,
)

"""Refined: what a teacher's certainty means is learned, round by round, from what a student would say of the texts."""

from __future__ import annotations

import numpy as np

from amalgam_edge.annotators import answers, log_evidence
from amalgam_edge.objectives.method import Evidence, Method, MethodSettings
from amalgam_edge.objectives.muka_loss import weighted_divergence
from amalgam_edge.probe import Probe
from amalgam_edge.supervision import Supervision, certainty, margin, mix_targets, soft_weights
from amalgam_edge.uncertainty import softmax

_SMALLEST_PROBABILITY = 1e-4


def supervise(evidence: Evidence, settings: MethodSettings) -> Supervision:
    """target(x) = Σ_i w_i(x) · pad(p_i(x)), w_i ∝ Σ_{y ∈ Y_i} q_y(x); every text weighs the same.

    q is the posterior over labels after the last round; before the first, w are the weights of muka-soft.
    """
    weights = soft_weights(certainty(evidence.scores), settings.score_temperature)
    if len(evidence.scores) > 1 and settings.refinement_rounds:
        weights = refine(evidence, weights, settings.refinement_rounds)
    target = mix_targets(evidence.scores, weights, evidence.labels)
    return Supervision(
        target=target.astype(np.float32),
        weight=np.ones(len(target), dtype=np.float32),
        picked=weights.argmax(axis=1),
    )


def refine(evidence: Evidence, weights: np.ndarray, rounds: int) -> np.ndarray:
    """Teacher weights ``(n_texts, n_teachers)`` after some rounds, from those at the start.

    A round is one of expectation-maximisation: q_y ∝ P_y · Π_i P(answer of i | y) / P(answer of i), where P is a
    probe's, fitted to the target of the round before.
    """
    if evidence.features is None:
        raise ValueError("refinement reads features")
    said = [answers(teacher, evidence.labels) for teacher in evidence.scores]
    knows = np.zeros((len(evidence.labels), len(said)))
    for position, teacher in enumerate(said):
        knows[teacher.columns, position] = 1.0
    probe = Probe(evidence.features)
    target = posterior = mix_targets(evidence.scores, weights, evidence.labels)
    for _ in range(rounds):
        log_p = np.log(np.maximum(probe(target, margin(target)), _SMALLEST_PROBABILITY))
        posterior = softmax(log_p + sum(log_evidence(teacher, posterior) for teacher in said))
        weights = posterior @ knows
        weights /= weights.sum(axis=1, keepdims=True)
        target = mix_targets(evidence.scores, weights, evidence.labels)
    return weights


METHOD = Method(
    name="refined",
    summary="muka-soft, then rounds that learn what each teacher's certainty means",
    paper="arXiv 2112.07327; Dawid & Skene 1979",
    parameters=("score_temperature", "refinement_rounds"),
    supervise=supervise,
    loss=weighted_divergence,
    reads_features=True,
)

"""Refined: what a teacher's certainty means is learned, round by round, from what a student would say of the texts."""

from __future__ import annotations

import numpy as np

from amalgam_edge.methods.method import Evidence, Method
from amalgam_edge.methods.muka_loss import weighted_divergence
from amalgam_edge.methods.refinement.annotators import answers, log_evidence
from amalgam_edge.methods.refinement.probe import Probe
from amalgam_edge.methods.refinement.shares import label_shares, with_shares
from amalgam_edge.methods.supervision import Supervision, energy, margin, mix_targets
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import certainty

_SMALLEST_PROBABILITY = 1e-4
_LOGITS_TEMPERATURE = 2.0


def supervise(evidence: Evidence, settings: MethodSettings) -> Supervision:
    """target(x) = Σ_i w_i(x) · pad(p_i(x)), w_i ∝ Σ_{y ∈ Y_i} q_y(x); every text weighs the same.

    q is the posterior over labels after the last round; before the first, w are :func:`first_weights`.
    """
    weights = first_weights(evidence, settings.score_temperature)
    if len(evidence.scores) > 1 and settings.refinement_rounds:
        weights = refine(evidence, weights, settings.refinement_rounds)
    target = mix_targets(evidence.scores, weights, evidence.labels)
    return Supervision(
        target=target.astype(np.float32),
        weight=np.ones(len(target), dtype=np.float32),
        picked=weights.argmax(axis=1),
    )


def first_weights(evidence: Evidence, score_temperature: float) -> np.ndarray:
    """The geometric mean of the weights of muka-soft and of vanilla-kd, ``(n_texts, n_teachers)``.

    How certain a teacher is and how large its logits are mislead on different texts.
    """
    by_certainty = certainty(evidence.scores) / score_temperature
    by_logits = energy(evidence.scores, _LOGITS_TEMPERATURE)
    return softmax((by_certainty + by_logits) / 2)


def refine(evidence: Evidence, weights: np.ndarray, rounds: int) -> np.ndarray:
    """Teacher weights ``(n_texts, n_teachers)`` after some rounds, from those at the start.

    A round is one of expectation-maximisation: q_y ∝ P_y · Π_i P(answer of i | y) / P(answer of i), where P is a
    probe's, fitted to the target of the round before and brought to the shares that labels have of what the same
    teachers know in the first target.
    """
    if evidence.features is None:
        raise ValueError("refinement reads features")
    knowledge, groups = evidence.labels.knowledge, evidence.labels.groups
    said = [answers(teacher, evidence.labels) for teacher in evidence.scores]
    probe = Probe(evidence.features)
    target = posterior = mix_targets(evidence.scores, weights, evidence.labels)
    shares = label_shares(target, groups)
    for _ in range(rounds):
        p = with_shares(probe(target, margin(target)), shares, groups)
        log_p = np.log(np.maximum(p, _SMALLEST_PROBABILITY))
        posterior = softmax(log_p + sum(log_evidence(teacher, posterior) for teacher in said))
        weights = posterior @ knowledge
        weights /= weights.sum(axis=1, keepdims=True)
        target = mix_targets(evidence.scores, weights, evidence.labels)
    return weights


METHOD = Method(
    name="refined",
    summary="certainty and logits, then rounds that learn what each teacher's certainty means",
    paper="arXiv 2112.07327; Dawid & Skene 1979",
    parameters=("score_temperature", "refinement_rounds"),
    supervise=supervise,
    loss=weighted_divergence,
    reads_features=True,
)

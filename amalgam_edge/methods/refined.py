"""Refined: teacher weights that are refined in rounds, by learning what each teacher's certainty means.

A probe stands in for the student, and the teachers are treated as annotators who err (Dawid & Skene 1979). The method
starts from the weights of MUKA (arXiv 2112.07327). The equations are in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.methods.hints import Hints
from amalgam_edge.methods.independent_labels import supervise_softly
from amalgam_edge.methods.losses import weighted_binary_divergence, weighted_divergence
from amalgam_edge.methods.method import Method, MethodInputs
from amalgam_edge.methods.refinement.annotators import TeacherAnswers, log_likelihood_ratio, teacher_answers
from amalgam_edge.methods.refinement.shares import adjust_to_shares, label_shares
from amalgam_edge.methods.supervision import Supervision, energy, margin, mix_targets
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import certainty

_SMALLEST_PROBABILITY = 1e-4
_ENERGY_TEMPERATURE = 2.0
_HINTS_AS_GOOD = 25.0  # number of known texts that are as good as the target of the initial weights


def supervise(inputs: MethodInputs, settings: MethodSettings) -> Supervision:
    """target(x) = Σ_i w_i(x) · pad(p_i(x)), with w from :func:`refine`; every text weighs 1.

    With one teacher or without rounds, w are the :func:`initial_weights`.
    """
    weights = initial_weights(inputs, settings.score_temperature)
    if len(inputs.scores) > 1 and settings.refinement_rounds:
        weights = refine(inputs, weights, settings.refinement_rounds)
    target = mix_targets(inputs.scores, weights, inputs.labels)
    return Supervision(
        target=target.astype(np.float32),
        weight=np.ones(len(target), dtype=np.float32),
        picked=weights.argmax(axis=1),
    )


def initial_weights(inputs: MethodInputs, score_temperature: float) -> np.ndarray:
    """The geometric mean of the teacher weights of muka-soft and vanilla-kd, ``(n_texts, n_teachers)``.

    w_i(x) ∝ √(exp(s_i(x) / τ) · Σ_y exp(f_iy(x) / 2)). Certainties and the sizes of logits mislead on different texts.
    """
    by_certainty = certainty(inputs.scores) / score_temperature
    by_logits = energy(inputs.scores, _ENERGY_TEMPERATURE)
    return softmax((by_certainty + by_logits) / 2)


def refine(inputs: MethodInputs, weights: np.ndarray, rounds: int) -> np.ndarray:
    """Teacher weights after some rounds of expectation-maximisation, ``(n_texts, n_teachers)``.

    Each round fits the probe to the current target, takes its probabilities P, adjusted to the label shares of the
    first target, and computes, with a_i(x) the answer of teacher i:

        q_y(x) ∝ P_y(x) · Π_i P(a_i(x) | y) / P(a_i(x)),    w_i(x) ∝ Σ_{y ∈ Y_i} q_y(x)

    Where the owner or the label of a text is known, q is restricted to it in every round, so that it also teaches the
    probe and what the teachers' answers mean.

    Args:
        inputs: Scores, label space and features.
        weights: Initial teacher weights, ``(n_texts, n_teachers)``.
        rounds: Number of rounds.

    Raises:
        ValueError: The inputs hold no features.
    """
    from amalgam_edge.methods.refinement.probe import Probe  # needs torch, which listing the methods does not

    if inputs.features is None:
        raise ValueError("refinement reads features")
    knowledge, groups = inputs.labels.knowledge, inputs.labels.groups
    answers = [teacher_answers(teacher, inputs.labels) for teacher in inputs.scores]
    probe = Probe(inputs.features)
    target = posterior = _known(inputs, mix_targets(inputs.scores, weights, inputs.labels))
    if inputs.hints is not None:
        posterior = _first_posterior(inputs, inputs.hints, answers, target)
        target = _known(inputs, mix_targets(inputs.scores, _weights(posterior, knowledge), inputs.labels))
    shares = label_shares(target, groups)
    for _ in range(rounds):
        probabilities = adjust_to_shares(probe.fit_predict(target, margin(target)), shares, groups)
        log_probabilities = np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))
        posterior = softmax(log_probabilities + sum(log_likelihood_ratio(each, posterior) for each in answers))
        posterior = _known(inputs, posterior)
        weights = _weights(posterior, knowledge)
        target = _known(inputs, mix_targets(inputs.scores, weights, inputs.labels))
    return weights


def _first_posterior(
    inputs: MethodInputs, hints: Hints, answers: Sequence[TeacherAnswers], target: np.ndarray
) -> np.ndarray:
    """The first posterior over labels where something is known of some texts, ``(n_texts, n_labels)``.

    What the teachers' answers mean is counted on these texts alone. The more they are, the less the target of the
    initial weights, which needs no hints and may mislead, is asked: its exponent is h / (h + n), h ``_HINTS_AS_GOOD``.
    """
    known = hints.known
    exponent = _HINTS_AS_GOOD / (_HINTS_AS_GOOD + known.sum())
    evidence = sum(log_likelihood_ratio(each, target * known[:, None]) for each in answers)
    return _known(inputs, softmax(exponent * np.log(np.maximum(target, _SMALLEST_PROBABILITY)) + evidence))


def _weights(posterior: np.ndarray, knowledge: np.ndarray) -> np.ndarray:
    """The share of each teacher's labels in the posterior, ``(n_texts, n_teachers)``; shared labels count for each."""
    mass = posterior @ knowledge
    return mass / mass.sum(axis=1, keepdims=True)


def _known(inputs: MethodInputs, distribution: np.ndarray) -> np.ndarray:
    """The distribution, where it does not contradict what is known of a text."""
    return distribution if inputs.hints is None else inputs.hints.restrict(distribution, inputs.labels.knowledge)


METHOD = Method(
    name="refined",
    summary="certainty and logits, then rounds that learn what each teacher's certainty means",
    paper="arXiv 2112.07327; Dawid & Skene 1979",
    parameters=("score_temperature", "refinement_rounds"),
    supervise=supervise,
    loss=weighted_divergence,
    reads_features=True,
    supervise_labels=supervise_softly,
    label_loss=weighted_binary_divergence,
)

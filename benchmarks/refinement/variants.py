"""Variants of the method ``refined`` and what they are compared with: pure functions from scores to supervision.

All variants but the references end in the same way, so that they differ only in the weights of teachers: the target is
the mean of the teachers' predictions under these weights, and every text has the same weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, MethodInputs, MethodSettings, refined
from amalgam_edge.methods.refinement import annotators, probe
from amalgam_edge.methods.refinement.annotators import TeacherAnswers, teacher_answers
from amalgam_edge.methods.refinement.probe import Probe
from amalgam_edge.methods.refinement.shares import adjust_to_shares, label_shares
from amalgam_edge.methods.supervision import Supervision, energy, from_labels, margin, mix_targets, soft_weights
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.numerics import linear
from amalgam_edge.numerics.components import principal_components
from amalgam_edge.scoring.scores import TeacherScores, certainty

# From the inputs of a method and the gold labels, which only references read, to supervision.
Variant = Callable[[MethodInputs, np.ndarray], Supervision]

TEMPERATURE = MethodSettings().score_temperature
_STEPS = 25
_SMALLEST = 1e-4  # probabilities of the probe are at least this
_SMALLEST_PRIOR = 1e-3
SURENESS: dict[str, Callable[[TeacherScores], np.ndarray]] = {
    "certainty": lambda teacher: 1.0 - teacher.uncertainty,
    "energy": lambda teacher: teacher.energy,
    "largest logit": lambda teacher: teacher.logits.max(axis=1),
    "mutual information": lambda teacher: -teacher.mutual_information,
}
FIRST: dict[str, Callable[[MethodInputs], np.ndarray]] = {
    "certainty and logits": lambda inputs: refined.initial_weights(inputs, TEMPERATURE),
    "certainty": lambda inputs: soft_weights(certainty(inputs.scores), TEMPERATURE),
    "logits": lambda inputs: softmax(energy(inputs.scores, MethodSettings().distillation_temperature)),
}
KEPT: dict[str, Callable[[LabelSpace], np.ndarray]] = {
    "of their group": lambda labels: labels.groups,
    "of all": lambda labels: np.zeros(len(labels), dtype=int),
    "none": lambda labels: np.arange(len(labels)),
}


@contextmanager
def constants(module: ModuleType, **values: Any) -> Iterator[None]:
    """Set constants of a module to other values within the block."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def fit_logistic(
    vectors: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    *,
    steps: int = _STEPS,
    start: torch.Tensor | None = None,
    offset: np.ndarray | None = None,
) -> torch.Tensor:
    """Fit a logistic regression to soft targets under weights, as the probe does.

    Args:
        vectors: A vector for each text, ``(n_texts, width)``, with a mean square norm of about 1.
        target: Distributions over labels, ``(n_texts, n_labels)``.
        weight: Weight of each text, ``(n_texts,)``.
        steps: Steps of the optimiser.
        start: Weights to start from.
        offset: Added to the logits, ``(n_texts, n_labels)``.

    Returns:
        The weight matrix with the bias as its last row.
    """
    aim = torch.from_numpy(target * (weight / weight.mean())[:, None])
    added = torch.zeros_like(aim) if offset is None else torch.from_numpy(offset)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return -(aim * torch.log_softmax(logits + added, dim=1)).sum() / len(aim)

    return linear.fit_linear(torch.from_numpy(vectors), aim.shape[1], loss, steps=steps, start=start)


def predict_logits(fitted: torch.Tensor, vectors: np.ndarray) -> np.ndarray:
    """The logits of a fitted regression, ``(n_texts, n_labels)``."""
    return linear.apply_linear(fitted, torch.from_numpy(vectors)).numpy()


def root_mean_square_norm(vectors: np.ndarray) -> float:
    """The square root of the mean squared norm of the vectors."""
    return float(np.sqrt(np.square(vectors).sum(axis=1).mean()))


def normalised_rows(weights: np.ndarray) -> np.ndarray:
    """The weights scaled so that each row sums to 1."""
    return weights / weights.sum(axis=1, keepdims=True)


def supervision_from_weights(inputs: MethodInputs, weights: np.ndarray, *, reweight: bool = False) -> Supervision:
    """Supervision from weights of teachers, ``(n_texts, n_teachers)``; texts are weighted by margin if ``reweight``."""
    target = mix_targets(inputs.scores, weights, inputs.labels)
    weight = margin(target) if reweight else np.ones(len(target))
    return Supervision(target.astype(np.float32), weight.astype(np.float32), weights.argmax(axis=1))


def paper_log_evidence(inputs: MethodInputs, smallest: float) -> np.ndarray:
    """The paper's certainty as log evidence: log Σ_i exp((s_i − max s) / τ) · pad(p_i), ``(n_texts, n_labels)``."""
    certainties = certainty(inputs.scores)
    scaled = np.exp((certainties - certainties.max(axis=1, keepdims=True)) / TEMPERATURE)
    return np.log(np.maximum(mix_targets(inputs.scores, scaled, inputs.labels), smallest))


class ProbeWithoutFolds:
    """The probe without cross-fitting: it predicts the texts that it was fitted to."""

    def __init__(self, features: np.ndarray) -> None:
        self._vectors = principal_components(features, probe.WIDTH).astype(np.float64)
        self._vectors /= root_mean_square_norm(self._vectors)
        self._fitted: torch.Tensor | None = None

    def fit_predict(self, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Fit the probe and return its predictions for the same texts, ``(n_texts, n_labels)``."""
        self._fitted = fit_logistic(self._vectors, target, weight, start=self._fitted)
        return softmax(predict_logits(self._fitted, self._vectors))


@dataclass(frozen=True)
class Refined:
    """The method ``refined``; the defaults are the product's.

    Attributes:
        rounds: Number of rounds of refinement.
        first: What the first weights are computed from, a key of ``FIRST``.
        kept: Within which groups labels keep their share of the texts, a key of ``KEPT``.
        crossed: Whether the probe is cross-fitted.
        bins: Number of bins that a teacher's sureness is divided into.
        strength: Strength of the prior on a label's answers, as a number of texts.
        evidence_power: Exponent of the evidence from the teachers' answers.
        probe_power: Exponent of the probe's probabilities.
        penalty: Penalty on the weights of the probe.
        width: How many principal components of the features the probe reads.
        sureness: What measures how sure a teacher is, a key of ``SURENESS``.
        prior_power: Exponent of the probe's mean, by which its probabilities are divided (Saerens et al. 2002).
        paper_power: Exponent of the paper's certainty, compared between teachers, as further evidence.
        margin_counts: Whether texts are weighted by their margin when answers are counted.
        margin_probe: Whether texts are weighted by their margin when the probe is fitted.
        margin_student: Whether texts are weighted by their margin when the student is trained.
    """

    rounds: int = MethodSettings().refinement_rounds
    first: str = "certainty and logits"
    kept: str = "of their group"
    crossed: bool = True
    bins: int = annotators.N_BINS
    strength: float = annotators.LABEL_STRENGTH
    evidence_power: float = 1.0
    probe_power: float = 1.0
    penalty: float = linear.PENALTY
    width: int = probe.WIDTH
    sureness: str = "certainty"
    prior_power: float = 0.0
    paper_power: float = 0.0
    margin_counts: bool = False
    margin_probe: bool = True
    margin_student: bool = False

    def __call__(self, inputs: MethodInputs, gold: np.ndarray) -> Supervision:
        """Make supervision; gold labels are not read."""
        with (
            constants(annotators, N_BINS=self.bins, LABEL_STRENGTH=self.strength),
            constants(linear, PENALTY=self.penalty),
            constants(probe, WIDTH=self.width),
        ):
            return supervision_from_weights(inputs, self._weights(inputs), reweight=self.margin_student)

    def _weights(self, inputs: MethodInputs) -> np.ndarray:
        """The weights of :func:`amalgam_edge.methods.refined.refine`, with the changes that the attributes make."""
        weights = FIRST[self.first](inputs)
        groups = KEPT[self.kept](inputs.labels)
        all_answers = [self._answers(teacher, inputs.labels) for teacher in inputs.scores]
        knows = inputs.labels.knowledge
        paper = paper_log_evidence(inputs, np.exp(-4))
        fitted_probe = (Probe if self.crossed else ProbeWithoutFolds)(inputs.features)
        target = posterior = mix_targets(inputs.scores, weights, inputs.labels)
        shares = label_shares(target, groups)
        for _ in range(self.rounds):
            clear = margin(target)
            p = fitted_probe.fit_predict(target, clear if self.margin_probe else np.ones(len(clear)))
            p = np.maximum(adjust_to_shares(p, shares, groups), _SMALLEST)
            prior = np.log(np.maximum(p.mean(axis=0), _SMALLEST_PRIOR))
            counted = posterior * (clear / clear.mean())[:, None] if self.margin_counts else posterior
            posterior = softmax(
                self.probe_power * (np.log(p) - self.prior_power * prior)
                + self.evidence_power
                * sum(annotators.log_likelihood_ratio(answers_of, counted) for answers_of in all_answers)
                + self.paper_power * paper
            )
            weights = normalised_rows(posterior @ knows)
            target = mix_targets(inputs.scores, weights, inputs.labels)
        return weights

    def _answers(self, teacher: TeacherScores, labels: LabelSpace) -> TeacherAnswers:
        values = SURENESS[self.sureness](teacher)
        edges = np.quantile(values, np.arange(1, self.bins) / self.bins)
        return replace(teacher_answers(teacher, labels), certainty_bin=np.searchsorted(edges, values, side="right"))


def ranked(certainties: np.ndarray) -> np.ndarray:
    """The rank of each certainty among those of the same teacher, between 0 and 1."""
    return (certainties.argsort(axis=0, kind="stable").argsort(axis=0) + 0.5) / len(certainties)


def standardised(certainties: np.ndarray) -> np.ndarray:
    """Certainties with mean 0 for each teacher, and for all teachers the standard deviation of all certainties."""
    deviation = np.maximum(certainties.std(axis=0), np.finfo(float).tiny)
    return (certainties - certainties.mean(axis=0)) / deviation * certainties.std()


SCALES = {"certainty": np.asarray, "ranks": ranked, "standardised": standardised}


@dataclass(frozen=True)
class CertaintyTimesMass:
    """Weights w_i ∝ g_i · exp(s_i / τ), where g_i is the probe's mass on the labels of teacher i.

    Attributes:
        scale: How certainties are scaled, a key of ``SCALES``.
        rounds: Number of rounds of refinement.
    """

    scale: str
    rounds: int = 3

    def __call__(self, inputs: MethodInputs, gold: np.ndarray) -> Supervision:
        """Make supervision; gold labels are not read."""
        first = weights = soft_weights(SCALES[self.scale](certainty(inputs.scores)), TEMPERATURE)
        fitted_probe, knows = Probe(inputs.features), inputs.labels.knowledge
        for _ in range(self.rounds):
            target = mix_targets(inputs.scores, weights, inputs.labels)
            mass = fitted_probe.fit_predict(target, margin(target)) @ knows
            weights = normalised_rows(np.maximum(mass, 1e-6) * first)
        return supervision_from_weights(inputs, weights)


@dataclass(frozen=True)
class CoTrained:
    """Co-training of the probe and a stacker that reads the teachers' outputs, each fitted to what both predicted.

    Attributes:
        rounds: Number of rounds of refinement; in the first the paper's weights take the stacker's place.
        penalty: Penalty on the weights of the stacker.
    """

    rounds: int = 4
    penalty: float = 10.0

    def __call__(self, inputs: MethodInputs, gold: np.ndarray) -> Supervision:
        """Make supervision; gold labels are not read."""
        paper = paper_log_evidence(inputs, 1e-6)
        outputs = [np.log(np.maximum(t.probabilities.astype(float), _SMALLEST)) for t in inputs.scores]
        outputs = np.concatenate([*outputs, 3 * certainty(inputs.scores)], axis=1)
        outputs = (outputs - outputs.mean(axis=0)) / outputs.std()
        fitted_probe, posterior = Probe(inputs.features), softmax(paper)
        for turn in range(self.rounds):
            clear = margin(posterior)
            log_p = np.log(np.maximum(fitted_probe.fit_predict(posterior, clear), _SMALLEST))
            prior = np.log(np.maximum(posterior.mean(axis=0), _SMALLEST_PRIOR))
            posterior = softmax(
                log_p - prior + self._stacked(outputs, paper, posterior, clear) if turn else log_p + paper
            )
        return supervision_from_weights(inputs, normalised_rows(posterior @ inputs.labels.knowledge))

    def _stacked(self, outputs: np.ndarray, offset: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Logits of each text, predicted by a stacker that was fitted to the other folds."""
        fold = np.random.default_rng(0).permutation(len(outputs)) % probe.N_FOLDS
        logits = offset.copy()
        with constants(linear, PENALTY=self.penalty):
            for k in range(probe.N_FOLDS):
                fitted_on = fold != k
                fitted = fit_logistic(
                    outputs[fitted_on], target[fitted_on], weight[fitted_on], offset=offset[fitted_on]
                )
                logits[~fitted_on] += predict_logits(fitted, outputs[~fitted_on])
        return logits


@dataclass(frozen=True)
class ByMethod:
    """A method of the product with its default settings.

    Attributes:
        name: The method's name.
    """

    name: str

    def __call__(self, inputs: MethodInputs, gold: np.ndarray) -> Supervision:
        """Make supervision; gold labels are not read."""
        return METHODS[self.name].supervise(inputs, MethodSettings())


@dataclass(frozen=True)
class GoldReference:
    """A reference that reads the gold labels.

    Attributes:
        what: What it uses of them: ``label``, or ``teacher`` for the teacher that knows the label.
    """

    what: str

    def __call__(self, inputs: MethodInputs, gold: np.ndarray) -> Supervision:
        """Make supervision from the gold labels."""
        if self.what == "label":
            return from_labels(gold, len(inputs.labels))
        return supervision_from_weights(inputs, normalised_rows(inputs.labels.knowledge[gold]))


PAPER, OURS = "muka-soft", "refined"
VARIANTS: dict[str, Variant] = {
    "vanilla-kd": ByMethod("vanilla-kd"),
    PAPER: ByMethod("muka-soft"),
    OURS: Refined(),
    "no round": Refined(rounds=0),
    "1 round": Refined(rounds=1),
    "2 rounds": Refined(rounds=2),
    "8 rounds": Refined(rounds=8),
    "first weights by certainty alone": Refined(first="certainty"),
    "first weights by logits alone": Refined(first="logits"),
    "labels keep no share": Refined(kept="none"),
    "labels keep their share of the corpus": Refined(kept="of all"),
    "no cross-fitting": Refined(crossed=False),
    "3 bins": Refined(bins=3),
    "8 bins": Refined(bins=8),
    "1 bin: how sure a teacher is is not read": Refined(bins=1),
    "strength of a label 1": Refined(strength=1.0),
    "strength of a label 50": Refined(strength=50.0),
    "strength of a label 10,000: two components a teacher": Refined(strength=1e4),
    "evidence to the power 0.5": Refined(evidence_power=0.5),
    "evidence to the power 2": Refined(evidence_power=2.0),
    "no evidence: the probe alone": Refined(evidence_power=0.0),
    "probe to the power 0.5": Refined(probe_power=0.5),
    "probe to the power 2": Refined(probe_power=2.0),
    "penalty 0.1": Refined(penalty=0.1),
    "penalty 1": Refined(penalty=1.0),
    "penalty 3": Refined(penalty=3.0),
    "probe of width 16": Refined(width=16),
    "sureness by energy": Refined(sureness="energy"),
    "sureness by the largest logit": Refined(sureness="largest logit"),
    "sureness by mutual information": Refined(sureness="mutual information"),
    "half of the prior divided out of the probe": Refined(prior_power=0.5, kept="none"),
    "prior divided out of the probe": Refined(prior_power=1.0, kept="none"),
    "counts weighted by margin": Refined(margin_counts=True),
    "the student's texts weighted by margin": Refined(margin_student=True),
    "the probe's texts all alike": Refined(margin_probe=False),
    "paper's certainty as evidence too, to the power 0.25": Refined(paper_power=0.25),
    "paper's certainty as evidence too, to the power 0.5": Refined(paper_power=0.5),
    "certainty × the student's mass, 3 rounds": CertaintyTimesMass("certainty"),
    "ranks × the student's mass, 3 rounds": CertaintyTimesMass("ranks"),
    "standardised × the student's mass, 3 rounds": CertaintyTimesMass("standardised"),
    "co-training with a stacker": CoTrained(),
    "told the right teacher": GoldReference("teacher"),
    "told the labels": GoldReference("label"),
}

"""How good a head's answers are, given its gold answers. Pure functions on arrays; builds and bundles share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amalgam_edge.gold import GoldAnswers
from amalgam_edge.heads import SIGMOID, Head
from amalgam_edge.metrics import accuracy
from amalgam_edge.metrics.calibration import Reliability, as_probabilities, as_two_classes, reliability
from amalgam_edge.metrics.label_scores import LabelCounts
from amalgam_edge.metrics.risk_coverage import RiskCoverage, risk_coverage
from amalgam_edge.runtime.evaluation import (
    DomainAccuracy,
    LabelScores,
    ModelEvaluation,
    ReliabilityBins,
    RiskCoverageCurve,
)
from amalgam_edge.runtime.manifest_models import Answered, ModelAccuracy
from amalgam_edge.storage.records import from_json

Domains = Mapping[str, Sequence[int]]  # teacher → positions of its labels in the head


def head_accuracy(head: Head, gold: GoldAnswers, logits: np.ndarray) -> ModelAccuracy:
    """How good the answers are.

    Args:
        head: The head.
        gold: Its gold answers.
        logits: Logits of the texts that have one, ``(n_gold, n_labels)``.
    """
    if head.activation == SIGMOID:
        probabilities = head.probabilities(logits)
        measured = accuracy.label_set_scores(gold.answers, head.holds(probabilities), probabilities)
        return from_json(ModelAccuracy, measured)
    answered = accuracy.answered_share_and_accuracy(gold.answers, logits, head.abstain) if head.abstain else None
    return ModelAccuracy(
        **accuracy.accuracy_and_macro_f1(confusion_of_head(gold, logits)),
        micro_f1=None,
        mean_average_precision=None,
        abstaining=None if answered is None else from_json(Answered, answered),
    )


def evaluate_head(head: Head, gold: GoldAnswers, logits: np.ndarray, domains: Domains) -> ModelEvaluation:
    """All that is measured of one model's answers.

    Args:
        head: The head.
        gold: Its gold answers.
        logits: Logits of the texts that have one, ``(n_gold, n_labels)``.
        domains: Teacher → positions of its labels.
    """
    overall = vars(head_accuracy(head, gold, logits))
    curve = reliability_of_head(head, gold.answers, logits)
    shared = {**overall, "ece": curve.error, "reliability": _bins(curve), "labels": label_scores(head, gold, logits)}
    if head.activation == SIGMOID:
        nll = accuracy.binary_negative_log_likelihood(gold.answers, logits)
        return ModelEvaluation(**shared, nll=nll, aurc=None, domains={}, confusion=(), risk_coverage=None)
    confusion = confusion_of_head(gold, logits)
    selective = risk_coverage(logits.argmax(axis=1) == gold.answers, head.probabilities(logits).max(axis=1))
    return ModelEvaluation(
        **shared,
        nll=accuracy.negative_log_likelihood(gold.answers, logits),
        aurc=selective.area,
        domains={
            teacher: from_json(DomainAccuracy, accuracy.domain_accuracy_and_macro_f1(confusion, columns))
            for teacher, columns in domains.items()
        },
        confusion=tuple(map(tuple, confusion.tolist())),
        risk_coverage=_curve(selective),
    )


def confusion_of_head(gold: GoldAnswers, logits: np.ndarray) -> np.ndarray:
    """Counts by gold and likeliest label of a softmax head, ``(n_labels, n_labels)``."""
    return accuracy.confusion_matrix(gold.answers, logits.argmax(axis=1), logits.shape[1])


def label_scores(head: Head, gold: GoldAnswers, logits: np.ndarray) -> dict[str, LabelScores]:
    """Label → precision, recall, F1 and, of a sigmoid head, the calibration error of its probability."""
    errors: list[float | None] = [None] * len(head)
    if head.activation == SIGMOID:
        counts = LabelCounts.of_label_sets(gold.answers, head.holds(head.probabilities(logits)))
        errors = [_reliability_of_label(*column).error for column in zip(gold.answers.T, logits.T, strict=True)]
    else:
        counts = LabelCounts.of_confusion(confusion_of_head(gold, logits))
    return {
        label: LabelScores(n_gold=n_gold, ece=error, **scores)
        for label, n_gold, error, scores in zip(
            head.labels, counts.n_gold.tolist(), errors, counts.scores(), strict=True
        )
    }


def reliability_of_head(head: Head, answers: np.ndarray, logits: np.ndarray) -> Reliability:
    """Confidence against gold answers; of a sigmoid head in each answer, yes or no, to each label.

    Args:
        head: The head.
        answers: The gold answers, see :class:`~amalgam_edge.gold.GoldAnswers`.
        logits: Logits ``(n_texts, n_labels)``.
    """
    if head.activation == SIGMOID:
        return _reliability_of_label(answers.reshape(-1), logits.reshape(-1))
    return reliability(logits, np.eye(len(head))[answers])


def _reliability_of_label(gold: np.ndarray, logits: np.ndarray) -> Reliability:
    return reliability(as_two_classes(logits), as_probabilities(gold.astype(np.float64)))


def _bins(curve: Reliability) -> ReliabilityBins:
    return ReliabilityBins(*(tuple(values.tolist()) for values in (curve.confidence, curve.accuracy, curve.share)))


def _curve(selective: RiskCoverage) -> RiskCoverageCurve:
    return RiskCoverageCurve(tuple(selective.coverage.tolist()), tuple(selective.risk.tolist()))

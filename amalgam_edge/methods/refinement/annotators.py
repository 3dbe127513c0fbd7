"""Teachers as annotators: how likely each of their answers is under each label. Pure functions on arrays.

Every teacher answers every text, including those of other domains. Its answer consists of the class it predicts and of
how certain it is, in fifths. How frequent each answer is under each label is counted from a posterior over labels
(Dawid & Skene, Applied Statistics 28, 1979). Certainties of different teachers are therefore never compared with each
other; what counts is what each teacher's certainty has meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.labels import LabelSpace
from amalgam_edge.scoring.scores import TeacherScores

N_BINS = 5
LABEL_STRENGTH = 5.0  # strengths of priors, in texts
GROUP_STRENGTH = 10.0
PRIOR_ACCURACY = 0.8
_PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class TeacherAnswers:
    """One teacher's answer to each text, out of ``n_classes · N_BINS`` possible answers.

    Attributes:
        columns: The position of each of the teacher's classes in the label space.
        predicted: The class that the teacher predicts for each text, ``(n_texts,)``.
        certainty_bin: The quantile bin of the teacher's certainty for each text, from 0 to ``N_BINS − 1``,
            ``(n_texts,)``.
    """

    columns: Sequence[int]
    predicted: np.ndarray
    certainty_bin: np.ndarray


def teacher_answers(scores: TeacherScores, labels: LabelSpace) -> TeacherAnswers:
    """The answers of a teacher. Texts of equal certainty are in the same bin."""
    certainty = 1.0 - scores.uncertainty
    edges = np.quantile(certainty, np.arange(1, N_BINS) / N_BINS)
    return TeacherAnswers(
        columns=labels.columns[scores.teacher],
        predicted=scores.logits.argmax(axis=1),
        certainty_bin=np.searchsorted(edges, certainty, side="right"),
    )


def log_likelihood_ratio(answers: TeacherAnswers, posterior: np.ndarray) -> np.ndarray:
    """The log likelihood ratio log P(a(x) | y) / P(a(x)) of a teacher's answer a(x) under each label y.

    P(a | y) = (n_y(a) + 5 · b_y(a)) / (n_y + 5), where n_y(a) = Σ_x q_y(x) · [a(x) = a], n_y = Σ_a n_y(a), and 5 is
    ``LABEL_STRENGTH``. The prior b_y is the same for all labels that the teacher does not know
    (:func:`_prior_of_unknown_labels`); for those that it knows see :func:`_prior_of_known_labels`.

    Args:
        answers: The teacher's answers.
        posterior: The distribution q over labels of each text, ``(n_texts, n_labels)``.

    Returns:
        The ratio of each text's answer under each label, ``(n_texts, n_labels)``.
    """
    n_labels, n_classes = posterior.shape[1], len(answers.columns)
    counts = np.zeros((n_classes, N_BINS, n_labels))
    np.add.at(counts, (answers.predicted, answers.certainty_bin), posterior)
    marginal = counts.sum(axis=2) + _PSEUDO_COUNT
    marginal /= marginal.sum()
    unknown = np.setdiff1d(np.arange(n_labels), answers.columns)
    prior = np.empty_like(counts)
    prior[:, :, unknown] = _prior_of_unknown_labels(counts[:, :, unknown], marginal)[:, :, None]
    prior[:, :, answers.columns] = _prior_of_known_labels(counts[:, :, answers.columns], marginal)
    likelihood = _smoothed_frequencies(counts, prior, LABEL_STRENGTH)
    log_ratio: np.ndarray = np.log(likelihood) - np.log(marginal)[:, :, None]
    return log_ratio[answers.predicted, answers.certainty_bin]


def _smoothed_frequencies(counts: np.ndarray, prior: np.ndarray, strength: float) -> np.ndarray:
    """(n(a) + strength · prior(a)) / (n + strength), with answers a along the first two axes of ``counts``."""
    return (counts + strength * prior) / (counts.sum(axis=(0, 1)) + strength)


def _prior_of_unknown_labels(counts: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """The frequency of each answer over all labels that the teacher does not know, ``(n_classes, N_BINS)``.

    It is smoothed by the answer's frequency over all labels, with the strength ``GROUP_STRENGTH``.

    Args:
        counts: Counts of the answers under these labels, ``(n_classes, N_BINS, n_unknown)``.
        marginal: The frequency of each answer over all labels, ``(n_classes, N_BINS)``.
    """
    return _smoothed_frequencies(counts.sum(axis=2), marginal, GROUP_STRENGTH)


def _prior_of_known_labels(counts: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """The expected frequency of each answer under each known label, ``(n_classes, N_BINS, n_classes)``.

    The teacher is expected to be right about each label as often as about all that it knows, and as certain when it
    is. When it is wrong, it predicts its other classes in proportion to how often it predicts them overall. How often
    it is right is smoothed by ``PRIOR_ACCURACY``, with the strength ``GROUP_STRENGTH``.

    Args:
        counts: Counts of the answers under these labels, ``(n_classes, N_BINS, n_classes)``.
        marginal: The frequency of each answer over all labels, ``(n_classes, N_BINS)``.
    """
    classes = np.arange(len(counts))
    n_right = counts[classes, :, classes].sum(axis=0)  # (N_BINS,)
    n_wrong = counts.sum(axis=(0, 2)) - n_right
    total = counts.sum() + GROUP_STRENGTH
    bin_frequency = marginal.sum(axis=0)
    right = (n_right + GROUP_STRENGTH * PRIOR_ACCURACY * bin_frequency) / total
    wrong = (n_wrong + GROUP_STRENGTH * (1 - PRIOR_ACCURACY) * bin_frequency) / total
    confusion = marginal.sum(axis=1)[:, None] * (1 - np.eye(len(classes)))  # (predicted class, label)
    confusion /= confusion.sum(axis=0)
    prior: np.ndarray = confusion[:, None, :] * wrong[None, :, None]
    prior[classes, :, classes] += right
    return prior

"""Teachers as annotators: how likely each answer of theirs is under each label. Pure functions on arrays.

A teacher answers every text, those of other domains too. Its answer is read as the class that it names and how sure it
is of it, and the frequencies of its answers under each label are counted from a posterior over labels (Dawid & Skene,
Applied Statistics 28, 1979). Certainties of different teachers are thus never compared with each other: what counts is
what each one's certainty has meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.labels import LabelSpace
from amalgam_edge.scoring.scores import TeacherScores

N_BINS = 5
LABEL_STRENGTH = 5.0
GROUP_STRENGTH = 10.0
SUPPOSED_ACCURACY = 0.8


@dataclass(frozen=True)
class Answers:
    """What one teacher says of each text, as one of few answers.

    Attributes:
        columns: the position in the label space of each of its classes.
        named: the class that it names, ``(n_texts,)``.
        sureness: which fifth of its own certainties the text's falls into, ``(n_texts,)``.
    """

    columns: Sequence[int]
    named: np.ndarray
    sureness: np.ndarray


def answers(scores: TeacherScores, labels: LabelSpace) -> Answers:
    """A teacher's answers; equal certainties are equally sure."""
    certainty = 1.0 - scores.uncertainty
    edges = np.quantile(certainty, np.arange(1, N_BINS) / N_BINS)
    return Answers(
        columns=labels.columns[scores.teacher],
        named=scores.logits.argmax(axis=1),
        sureness=np.searchsorted(edges, certainty, side="right"),
    )


def log_evidence(said: Answers, posterior: np.ndarray) -> np.ndarray:
    """Logarithm of P(answer | label) / P(answer) of a teacher's answers, ``(n_texts, n_labels)``.

    Counts of few texts are drawn to those of a group of labels, with the strength of ``LABEL_STRENGTH`` texts: labels
    that the teacher does not know to all of these; those that it knows to how often it is right about them, and how
    sure it then is. Groups are drawn to the answers at large, with ``GROUP_STRENGTH``, and knowing teachers to being
    right in ``SUPPOSED_ACCURACY``.

    Args:
        said: of the teacher.
        posterior: over labels, ``(n_texts, n_labels)``.
    """
    n_labels, n_classes = posterior.shape[1], len(said.columns)
    counts = np.zeros((n_classes, N_BINS, n_labels))
    np.add.at(counts, (said.named, said.sureness), posterior)
    at_large = counts.sum(axis=2) + 0.5
    at_large /= at_large.sum()
    supposed = np.empty_like(counts)
    foreign = np.setdiff1d(np.arange(n_labels), said.columns)
    supposed[:, :, foreign] = _drawn(counts[:, :, foreign].sum(axis=2), at_large, GROUP_STRENGTH)[:, :, None]
    supposed[:, :, said.columns] = _of_own_labels(counts[:, :, said.columns], at_large)
    likelihood = _drawn(counts, supposed, LABEL_STRENGTH)
    evidence: np.ndarray = np.log(likelihood) - np.log(at_large)[:, :, None]
    return evidence[said.named, said.sureness]


def _drawn(counts: np.ndarray, expected: np.ndarray, strength: float) -> np.ndarray:
    """Frequencies of answers, as many of ``strength`` texts being as expected; answers lie along the first two axes."""
    return (counts + strength * expected) / (counts.sum(axis=(0, 1)) + strength)


def _of_own_labels(counts: np.ndarray, at_large: np.ndarray) -> np.ndarray:
    """What is supposed of each label that the teacher knows, ``(n_classes, N_BINS, n_classes)``.

    It is as often right, and as sure then, as on all of them; where it is wrong, it names what it names at large.
    """
    own = np.arange(len(counts))
    right = counts[own, :, own].sum(axis=0)
    wrong = counts.sum(axis=(0, 2)) - right
    n_known = counts.sum() + GROUP_STRENGTH
    sure = at_large.sum(axis=0)
    right = (right + GROUP_STRENGTH * SUPPOSED_ACCURACY * sure) / n_known
    wrong = (wrong + GROUP_STRENGTH * (1 - SUPPOSED_ACCURACY) * sure) / n_known
    others = at_large.sum(axis=1)[:, None] * (1 - np.eye(len(own)))  # (named, label)
    others /= others.sum(axis=0)
    supposed: np.ndarray = others[:, None, :] * wrong[None, :, None]
    supposed[own, :, own] += right
    return supposed

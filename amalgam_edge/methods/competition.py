"""Whether teachers compete for texts or answer different questions about them. Pure functions on arrays.

Teachers that compete divide the texts between them: where one is in its domain, the others are not, so that one's
certainty goes with the others' doubt. Of teachers of different questions each knows all texts. Certainties as they are
do not tell these apart: topics move them, so that where one question is easy another is always hard, and teachers that
compete may all be sure of nearly everything. Two things do tell.

- *Concord.* A teacher's certainty about a text is compared with its certainty about other texts that it answers alike.
  What is left of it is correlated with the greatest that is left of any other teacher's. Teachers that compete are at
  odds. Teachers of different questions are in concord, since some texts are obscure whatever is asked about them.
- *Who knows every text.* Two teachers compete only if each has texts that it does not know. If one of them is as sure
  of nearly all texts as of its surest, and they are not at odds, they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np

from amalgam_edge.labels import LabelSpace
from amalgam_edge.metrics.uncertainty import SOFTMAX, Activation
from amalgam_edge.scoring.scores import TeacherScores

# Chosen on the sets of teachers that docs/research.md names.
LEAST_CONCORD = 0.05  # of teachers of different questions, beyond what chance may do
SURE = 0.9  # share of its greatest certainty from which on a teacher is as sure as of its surest texts
EVERY_TEXT = 0.9  # share of texts that is nearly all of them
_GREATEST = 0.95  # quantile of certainties that stands for the greatest
CHANCE = 0.05  # of a concord that is beyond what chance may do
_GREATEST_ERROR = 0.075  # of a concord that may show that teachers are not at odds; some 180 texts
_LEAST_TEXTS = 50

Verdict = Literal["compete", "independent", "unclear"]


@dataclass(frozen=True)
class Competition:
    """Whether teachers compete, and what says so.

    Attributes:
        verdict: ``compete`` if something says that they do; ``independent`` if something says that they answer
            different questions and nothing that any two compete; ``unclear`` otherwise.
        reason: What decided, as half a sentence for a message.
        concord: Mean of ``concord_of``.
        error: Standard error of ``concord``.
        concord_of: For each teacher, the correlation of its certainty with that of the most certain other teacher,
            each relative to texts that the teacher answers alike.
        known_to: For each teacher, the share of texts of which it is as sure as of its surest.
        n_texts: Number of texts that every teacher scored.
    """

    verdict: Verdict
    reason: str
    concord: float
    error: float
    concord_of: Mapping[str, float]
    known_to: Mapping[str, float]
    n_texts: int

    @property
    def competes(self) -> bool:
        """Whether the teachers may compete: false only if something says that they answer different questions."""
        return self.verdict != "independent"


@dataclass(frozen=True)
class Answers:
    """What one teacher says of each text.

    Attributes:
        answer: A number that is equal where the teacher's answer is, ``(n_texts,)`` of int.
        certainty: 1 − u, ``(n_texts,)``.
        information: Mutual information of prediction and dropout mask, ``(n_texts,)``.
    """

    answer: np.ndarray
    certainty: np.ndarray
    information: np.ndarray

    @classmethod
    def of(cls, scores: TeacherScores) -> Answers:
        """The answers in a teacher's scores, none of which may be blank."""
        return cls(
            answers(scores.probabilities, scores.activation), 1.0 - scores.uncertainty, scores.mutual_information
        )


def find_competition(scores: Sequence[TeacherScores], labels: LabelSpace) -> Competition:
    """Whether teachers compete for the texts of a corpus, or answer different questions about them.

    Args:
        scores: The scores of each teacher, of the same texts. Texts that one could not score are left out.
        labels: The union of their labels. Teachers that share one compete.
    """
    rows = np.flatnonzero(np.logical_and.reduce([teacher.scored for teacher in scores]))
    shared = np.flatnonzero(labels.knowledge.sum(axis=1) > 1)
    said = {teacher.teacher: Answers.of(teacher.take(rows)) for teacher in scores}
    return compare_answers(said, shared_label=labels.names[shared[0]] if len(shared) else None)


def compare_answers(said: Mapping[str, Answers], *, shared_label: str | None = None) -> Competition:
    """See :func:`find_competition`.

    Args:
        said: For each teacher, what it says of each text.
        shared_label: A label that several teachers have.
    """
    names, given = [*said], [*said.values()]
    n_texts = len(given[0].answer)
    n_answers = max(len(np.unique(each.answer)) for each in given)
    relative = np.stack([relative_certainty(each) for each in given], axis=1)
    concord_of = concords(relative)
    known_to = np.array([known_share(each.certainty) for each in given])
    error = float(1.0 / np.sqrt(max(n_texts - n_answers - 2, 1)))
    if len(names) < 2:
        verdict, reason = _unclear("there is one teacher")
    elif shared_label is not None:
        verdict, reason = "compete", f"several teachers have the label '{shared_label}'"
    elif n_texts < _LEAST_TEXTS:
        verdict, reason = _unclear(f"{n_texts} texts are too few to tell")
    else:
        verdict, reason = _decide(concord_of, pair_concords(relative), error, known_to)
    return Competition(
        verdict,
        reason,
        float(concord_of.mean()),
        error,
        dict(zip(names, concord_of.tolist(), strict=True)),
        dict(zip(names, known_to.tolist(), strict=True)),
        n_texts,
    )


def answers(probabilities: np.ndarray, activation: Activation) -> np.ndarray:
    """A number for each text that is equal where a teacher's answer is, ``(n_texts,)`` of int.

    The answer is the likeliest class or, of labels that do not exclude each other, the set of those that are likelier
    than not.

    Args:
        probabilities: Probabilities of classes, or of labels that do not exclude each other, ``(n_texts, n_labels)``.
        activation: What made them of logits.
    """
    if activation == SOFTMAX:
        return probabilities.argmax(axis=1)
    sets: np.ndarray = np.unique(probabilities > 0.5, axis=0, return_inverse=True)[1]
    return sets.reshape(-1)


def relative_certainty(said: Answers) -> np.ndarray:
    """How certain a teacher is of a text, beside other texts that it answers alike, ``(n_texts,)``.

    It is the rank of the text by certainty and by how little dropout moves the prediction, less the mean rank of the
    texts with that answer, in standard deviations; 0 for all texts if that leaves no difference between them.
    """
    rank = _ranks(_ranks(said.certainty) + _ranks(-said.information))
    positions, counts = np.unique(said.answer, return_inverse=True, return_counts=True)[1:]
    rank -= (np.bincount(positions.reshape(-1), rank) / counts)[positions.reshape(-1)]
    spread = rank.std() if len(rank) else 0.0
    return rank / spread if spread > 1e-9 else np.zeros(len(rank))


def concords(relative: np.ndarray) -> np.ndarray:
    """The correlation of each teacher's relative certainty with the greatest of the others', ``(n_teachers,)``.

    Args:
        relative: Relative certainties, ``(n_texts, n_teachers)``; the concord of a single teacher is 0.
    """
    found = np.zeros(relative.shape[1])
    for position, own in enumerate(relative.T if relative.shape[1] > 1 and len(relative) > 2 else ()):
        other = np.delete(relative, position, axis=1).max(axis=1)
        if own.std() > 0 and other.std() > 0:
            found[position] = np.corrcoef(own, other)[0, 1]
    return found


def pair_concords(relative: np.ndarray) -> np.ndarray:
    """The correlation of the relative certainties of each two teachers, ``(n_teachers, n_teachers)``; see concords."""
    n_teachers = relative.shape[1]
    pairs = np.zeros((n_teachers, n_teachers))
    for first, second in combinations(range(n_teachers), 2):
        pairs[first, second] = pairs[second, first] = concords(relative[:, [first, second]])[0]
    return pairs


def known_share(certainty: np.ndarray) -> float:
    """The share of texts of which a teacher is as sure as of its surest; 0 if there are no texts."""
    if not len(certainty):
        return 0.0
    return float((certainty >= SURE * np.quantile(certainty, _GREATEST)).mean())


def _decide(concord_of: np.ndarray, pairs: np.ndarray, error: float, known_to: np.ndarray) -> tuple[Verdict, str]:
    """The verdict on two or more teachers with labels of their own, and its reason."""
    concord, least, n_teachers = float(concord_of.mean()), float(concord_of.min()), len(concord_of)
    chance, chance_of_one = (error * NormalDist().inv_cdf(1 - share) for share in (CHANCE, CHANCE / n_teachers))
    if concord < -chance:
        return "compete", f"where one teacher is sure, others are in doubt (concord {concord:+.2f})"
    if least < -chance_of_one:
        return _unclear(f"one teacher is sure where others are in doubt (concord {least:+.2f})")
    if concord > LEAST_CONCORD + chance:
        return "independent", f"teachers are sure, and in doubt, about the same texts (concord {concord:+.2f})"
    knows = known_to >= EVERY_TEXT
    apart = (pairs > LEAST_CONCORD + chance) | knows[:, None] | knows[None, :] | np.eye(n_teachers, dtype=bool)
    if apart.all() and knows.any() and error <= _GREATEST_ERROR:
        return "independent", f"some teacher is as sure of {known_to.max():.0%} of the texts as of its surest"
    return _unclear(f"certainty does not tell (concord {concord:+.2f}, by chance up to ±{chance:.2f})")


def _unclear(reason: str) -> tuple[Verdict, str]:
    return "unclear", reason


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1]; equal values share the mean of their ranks."""
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (counts.cumsum() - (counts - 1) / 2)[positions.reshape(-1)] / max(len(values), 1)
    return ranks

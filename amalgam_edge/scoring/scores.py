"""What one teacher says of each text of a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

import numpy as np

from amalgam_edge.metrics import uncertainty


class Failure(TypedDict):
    """A text that a teacher could not score: its row in the corpus, and why."""

    text: int
    error: str


@dataclass(frozen=True)
class TeacherScores:
    """One teacher's predictions and its doubts, a row a text.

    A text that could not be scored is blank: 0 passes, and NaN in the other arrays.

    Attributes:
        teacher: the teacher's name.
        logits: with dropout off, ``(n_texts, n_classes)``.
        probabilities: softmax of ``logits``, ``(n_texts, n_classes)``.
        mean_probabilities: mean over the passes with dropout on, ``(n_texts, n_classes)``.
        predictive_entropy: entropy of ``mean_probabilities`` in nats, ``(n_texts,)``.
        mutual_information: between prediction and mask, in nats, ``(n_texts,)``.
        energy: log Σ exp of ``logits``, ``(n_texts,)``.
        passes: how many passes were run, ``(n_texts,)``.
    """

    teacher: str
    logits: np.ndarray
    probabilities: np.ndarray
    mean_probabilities: np.ndarray
    predictive_entropy: np.ndarray
    mutual_information: np.ndarray
    energy: np.ndarray
    passes: np.ndarray

    @classmethod
    def from_logits(
        cls, teacher: str, logits: np.ndarray, pass_logits: np.ndarray, passes: np.ndarray | None = None
    ) -> TeacherScores:
        """Summarise one run with dropout off and several with dropout on.

        Args:
            teacher: the teacher's name.
            logits: ``(n_texts, n_classes)``, dropout off.
            pass_logits: ``(n_passes, n_texts, n_classes)``, dropout on.
            passes: how many of the passes, from the first, each text was run through, ``(n_texts,)``; by default all.
        """
        if passes is None:
            passes = np.full(len(logits), len(pass_logits))
        mean_probabilities, information = uncertainty.summarise_passes(pass_logits, passes)
        return cls(
            teacher=teacher,
            logits=logits.astype(np.float32),
            probabilities=uncertainty.softmax(logits.astype(np.float64)).astype(np.float32),
            mean_probabilities=mean_probabilities.astype(np.float32),
            predictive_entropy=uncertainty.entropy(mean_probabilities).astype(np.float32),
            mutual_information=information.astype(np.float32),
            energy=uncertainty.energy(logits.astype(np.float64)).astype(np.float32),
            passes=passes.astype(np.int32),
        )

    @classmethod
    def blank(cls, teacher: str, n_classes: int, n_texts: int = 1) -> TeacherScores:
        """The rows of texts that a teacher could not score."""
        none = cls.from_logits(teacher, np.zeros((0, n_classes)), np.zeros((1, 0, n_classes)))
        return none.among(n_texts, np.arange(0))

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def uncertainty(self) -> np.ndarray:
        """Normalised predictive entropy u in [0, 1], ``(n_texts,)``."""
        return uncertainty.normalised_entropy(self.mean_probabilities.astype(np.float64))

    def take(self, rows: np.ndarray) -> TeacherScores:
        """The same scores for a selection of texts, in the order of ``rows``."""
        return TeacherScores(self.teacher, **{name: getattr(self, name)[rows] for name in ARRAYS})

    @property
    def scored(self) -> np.ndarray:
        """Which texts could be scored, ``(n_texts,)`` of bool."""
        return self.passes > 0

    def among(self, n_texts: int, rows: np.ndarray) -> TeacherScores:
        """These scores as rows ``rows`` of ``n_texts`` texts, of which the others are blank: undoes :meth:`take`."""

        def spread(values: np.ndarray) -> np.ndarray:
            whole = np.full((n_texts, *values.shape[1:]), np.nan if values.dtype.kind == "f" else 0, values.dtype)
            whole[rows] = values
            return whole

        return TeacherScores(self.teacher, **{name: spread(getattr(self, name)) for name in ARRAYS})

    def digest(self) -> str:
        """SHA-256 of the rows, the same wherever they are the same to the bit."""
        content = hashlib.sha256()
        for name in ARRAYS:
            values = getattr(self, name)
            content.update(f"{name} {values.shape} ".encode())
            content.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        return content.hexdigest()

    @classmethod
    def concatenate(cls, parts: list[TeacherScores]) -> TeacherScores:
        """Join scores of one teacher over consecutive texts."""
        return cls(
            parts[0].teacher,
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS},
        )


@dataclass(frozen=True)
class ScoreSummary:
    """What one teacher's scores of a corpus come to.

    Attributes:
        teacher: its name.
        n_texts: how many it scored.
        mean_passes: dropout passes a text.
        mean_uncertainty: of u, in [0, 1].
        picked_share: of the texts that every teacher scored, on which it is the most certain one.
        n_failed: how many it could not score.
    """

    teacher: str
    n_texts: int
    mean_passes: float
    mean_uncertainty: float
    picked_share: float
    n_failed: int = 0


def certainty(scores: Sequence[TeacherScores]) -> np.ndarray:
    """s_i(x) = 1 − u_i(x): how far each teacher is to be trusted on each text, ``(n_texts, n_teachers)``."""
    return np.stack([1.0 - teacher.uncertainty for teacher in scores], axis=1)


ARRAYS = tuple(field.name for field in fields(TeacherScores) if field.name != "teacher")

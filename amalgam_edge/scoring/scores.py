"""The scores of one teacher: its predictions on each text of a corpus, and how uncertain they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np

from amalgam_edge.metrics import uncertainty


class Failure(TypedDict):
    """A text that a teacher could not score.

    Attributes:
        text: Row of the text in the corpus.
        error: Why it could not be scored, in one line.
    """

    text: int
    error: str


@dataclass(frozen=True)
class TeacherScores:
    """One teacher's predictions and uncertainty, one row for each text.

    The row of a text that could not be scored is blank: 0 passes, and NaN in the other arrays.

    Attributes:
        teacher: Name of the teacher.
        logits: Logits with dropout off, ``(n_texts, n_classes)``.
        probabilities: Softmax or sigmoid of ``logits``, ``(n_texts, n_classes)``.
        mean_probabilities: Mean prediction over the passes with dropout on, ``(n_texts, n_classes)``.
        predictive_entropy: Entropy of ``mean_probabilities`` in nats, ``(n_texts,)``.
        mutual_information: Mutual information of prediction and mask in nats (BALD, arXiv 1112.5745), ``(n_texts,)``.
        energy: Negative free energy, see :func:`~amalgam_edge.metrics.uncertainty.energy`, ``(n_texts,)``.
        passes: Number of passes that were run, ``(n_texts,)``.
        activation: What makes probabilities of logits.
    """

    teacher: str
    logits: np.ndarray
    probabilities: np.ndarray
    mean_probabilities: np.ndarray
    predictive_entropy: np.ndarray
    mutual_information: np.ndarray
    energy: np.ndarray
    passes: np.ndarray
    activation: uncertainty.Activation = uncertainty.SOFTMAX

    @classmethod
    def from_logits(
        cls,
        teacher: str,
        logits: np.ndarray,
        pass_logits: np.ndarray,
        passes: np.ndarray | None = None,
        activation: uncertainty.Activation = uncertainty.SOFTMAX,
    ) -> TeacherScores:
        """Compute scores from one run with dropout off and several passes with dropout on.

        Args:
            teacher: Name of the teacher.
            logits: Logits with dropout off, ``(n_texts, n_classes)``.
            pass_logits: Logits of each pass, ``(n_passes, n_texts, n_classes)``.
            passes: Number of passes, from the first, that each text was run through, ``(n_texts,)``; by default all.
            activation: What makes probabilities of logits.
        """
        if passes is None:
            passes = np.full(len(logits), len(pass_logits))
        mean_probabilities, information = uncertainty.summarise_passes(pass_logits, passes, activation)
        return cls(
            teacher=teacher,
            logits=logits.astype(np.float32),
            probabilities=uncertainty.to_probabilities(logits.astype(np.float64), activation).astype(np.float32),
            mean_probabilities=mean_probabilities.astype(np.float32),
            predictive_entropy=uncertainty.predictive_entropy(mean_probabilities, activation).astype(np.float32),
            mutual_information=information.astype(np.float32),
            energy=uncertainty.energy(logits.astype(np.float64), activation).astype(np.float32),
            passes=passes.astype(np.int32),
            activation=activation,
        )

    @classmethod
    def blank(
        cls, teacher: str, n_classes: int, n_texts: int = 1, activation: uncertainty.Activation = uncertainty.SOFTMAX
    ) -> TeacherScores:
        """Blank rows, for texts that a teacher could not score."""
        none = cls.from_logits(teacher, np.zeros((0, n_classes)), np.zeros((1, 0, n_classes)), activation=activation)
        return none.scatter(n_texts, np.arange(0))

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def uncertainty(self) -> np.ndarray:
        """Normalised predictive entropy u in [0, 1], ``(n_texts,)``; of independent labels the mean over them."""
        return uncertainty.normalised_uncertainty(self.mean_probabilities.astype(np.float64), self.activation)

    def take(self, rows: np.ndarray) -> TeacherScores:
        """The scores of some texts, in the order of ``rows``."""
        return self._with({name: getattr(self, name)[rows] for name in ARRAYS})

    @property
    def scored(self) -> np.ndarray:
        """Which texts could be scored: ``(n_texts,)`` of bool."""
        return self.passes > 0

    def scatter(self, n_texts: int, rows: np.ndarray) -> TeacherScores:
        """The scores of ``n_texts`` texts: these are at ``rows``, all other rows are blank. Undoes :meth:`take`."""

        def scattered(values: np.ndarray) -> np.ndarray:
            blank = np.nan if values.dtype.kind == "f" else 0
            result = np.full((n_texts, *values.shape[1:]), blank, values.dtype)
            result[rows] = values
            return result

        return self._with({name: scattered(getattr(self, name)) for name in ARRAYS})

    def digest(self) -> str:
        """SHA-256 of all rows; it does not depend on the byte order of the machine."""
        content = hashlib.sha256()
        for name in ARRAYS:
            values = getattr(self, name)
            content.update(f"{name} {values.shape} ".encode())
            content.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        return content.hexdigest()

    @classmethod
    def concatenate(cls, parts: list[TeacherScores]) -> TeacherScores:
        """Join one teacher's scores of consecutive parts of a corpus."""
        return parts[0]._with({name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS})

    def _with(self, arrays: Mapping[str, Any]) -> TeacherScores:
        """The same teacher's scores of other texts."""
        return replace(self, **arrays)


@dataclass(frozen=True)
class ScoreSummary:
    """Summary of one teacher's scores of a corpus.

    Attributes:
        teacher: Name of the teacher.
        n_texts: Number of texts that it scored.
        mean_passes: Mean number of dropout passes over a text.
        mean_uncertainty: Mean of the normalised predictive entropy u, in [0, 1].
        picked_share: Share of texts on which it is the most certain teacher of its head, among the texts that every
            teacher scored.
        n_failed: Number of texts that it could not score.
    """

    teacher: str
    n_texts: int
    mean_passes: float
    mean_uncertainty: float
    picked_share: float
    n_failed: int = 0


def certainty(scores: Sequence[TeacherScores]) -> np.ndarray:
    """Certainty s_i(x) = 1 − u_i(x) of each teacher i on each text x (arXiv 2112.07327), ``(n_texts, n_teachers)``."""
    return np.stack([1.0 - teacher.uncertainty for teacher in scores], axis=1)


ARRAYS = tuple(field.name for field in fields(TeacherScores) if field.name not in ("teacher", "activation"))

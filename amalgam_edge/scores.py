"""What one teacher says of each text of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from amalgam_edge import uncertainty


@dataclass(frozen=True)
class TeacherScores:
    """One teacher's predictions and its doubts, a row a text.

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

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def uncertainty(self) -> np.ndarray:
        """Normalised predictive entropy u in [0, 1], ``(n_texts,)``."""
        return uncertainty.normalised_entropy(self.mean_probabilities.astype(np.float64))

    def take(self, rows: np.ndarray) -> TeacherScores:
        """The same scores for a selection of texts, in the order of ``rows``."""
        return TeacherScores(self.teacher, **{name: getattr(self, name)[rows] for name in ARRAYS})

    def unknown(self, n_texts: int) -> TeacherScores:
        """Texts of which this teacher could say nothing: no pass, and no number."""
        empty = {name: np.full((n_texts, *getattr(self, name).shape[1:]), np.nan, np.float32) for name in ARRAYS}
        return TeacherScores(self.teacher, **empty | {"passes": np.zeros(n_texts, np.int32)})

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
        picked_share: of texts on which it is the most certain teacher.
    """

    teacher: str
    n_texts: int
    mean_passes: float
    mean_uncertainty: float
    picked_share: float


ARRAYS = tuple(field.name for field in fields(TeacherScores) if field.name != "teacher")

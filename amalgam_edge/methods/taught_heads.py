"""The heads of a student while it is being trained: who teaches each, and how much each counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Head, Heads
from amalgam_edge.labels import LabelSpace
from amalgam_edge.scoring.scores import TeacherScores


@dataclass(frozen=True)
class TaughtHead:
    """A head with its teachers.

    Attributes:
        head: The head.
        labels: Its labels, and the teachers' classes that each of them stands for.
        weight: The factor of its loss in the loss of all heads.
    """

    head: Head
    labels: LabelSpace
    weight: float = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of its teachers."""
        return self.labels.teachers


@dataclass(frozen=True)
class TaughtHeads:
    """All heads of a student, in the order of its logits.

    Attributes:
        taught: At least one.
    """

    taught: tuple[TaughtHead, ...]

    def __len__(self) -> int:
        return len(self.taught)

    def __iter__(self) -> Iterator[TaughtHead]:
        return iter(self.taught)

    @cached_property
    def heads(self) -> Heads:
        """The heads without their teachers."""
        return Heads(tuple(taught.head for taught in self.taught))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all logits."""
        return self.heads.labels

    def of_teacher(self, teacher: str) -> TaughtHead:
        """The head that a teacher teaches."""
        return next(taught for taught in self.taught if teacher in taught.teachers)

    @property
    def only(self) -> TaughtHead:
        """The head, where there is one.

        Raises:
            AmalgamError: There are several.
        """
        if len(self.taught) > 1:
            raise AmalgamError(f"one head is needed here; there are {', '.join(self.heads.names)}")
        return self.taught[0]


def scores_of(taught: TaughtHead, scores: Sequence[TeacherScores]) -> list[TeacherScores]:
    """The scores of a head's teachers, in the order of its label space."""
    by_name = {each.teacher: each for each in scores}
    return [by_name[teacher] for teacher in taught.teachers]

"""What a method consists of, what it reads, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.hints import Hints
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import TeacherScores

if TYPE_CHECKING:
    import torch

    from amalgam_edge.methods.objectives import Objective


@dataclass(frozen=True)
class MethodInputs:
    """What a method computes supervision from.

    Attributes:
        scores: The scores of each teacher, in the order of the label space's teachers.
        labels: The label space.
        features: Features of each text by the student's untrained encoder, ``(n_texts, width)``. None if the method
            reads none.
        hints: What is known of some texts. None where nothing is. Whatever a method makes of it, no supervision
            contradicts it: see :meth:`amalgam_edge.methods.hints.Hints.apply`.
    """

    scores: Sequence[TeacherScores]
    labels: LabelSpace
    features: np.ndarray | None = None
    hints: Hints | None = None


@dataclass(frozen=True)
class Shapes:
    """The sizes that an objective is built for.

    Attributes:
        columns: For each teacher, the position of each of its classes in the label space.
        teacher_widths: For each teacher, the width of its hidden state. Empty if the method reads none.
        student_width: Width of the student's hidden state.
    """

    columns: tuple[Sequence[int], ...]
    teacher_widths: tuple[int, ...]
    student_width: int


Supervise = Callable[[MethodInputs, MethodSettings], Supervision]
Loss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", MethodSettings], "torch.Tensor"]
BuildObjective = Callable[[Shapes, MethodSettings], "Objective"]


@dataclass(frozen=True)
class Method:
    """A named way to amalgamate teachers: how supervision is computed, and the loss the student is trained under.

    ``loss`` and ``objective`` import torch when they are called, so that methods can be listed without it.

    Attributes:
        name: The name that ``--method`` takes.
        summary: One line on what the student learns.
        paper: Reference of the paper that the method comes from.
        parameters: Names of the settings that the method reads.
        supervise: Function (inputs, settings) → supervision.
        loss: Function (student logits ``(n_texts, n_labels)``, target ``(n_texts, n_labels)``, weight ``(n_texts,)``,
            settings) → scalar loss. The student's head is always fitted under it first.
        objective: Function (shapes, settings) → objective that replaces the loss once the head is fitted. None for
            methods whose loss reads nothing beyond the supervision.
        reads_hidden: Whether the objective reads the teachers' hidden states. They are computed only in that case.
        reads_features: Whether ``supervise`` reads features of the student's encoder where a head has several teachers.
            They are computed only in that case.
        supervise_labels: ``supervise`` for a sigmoid head, whose labels do not exclude each other. None for methods
            that have softmax heads only.
        label_loss: ``loss`` for a sigmoid head.
    """

    name: str
    summary: str
    paper: str
    parameters: tuple[str, ...]
    supervise: Supervise
    loss: Loss
    objective: BuildObjective | None = None
    reads_hidden: bool = False
    reads_features: bool = False
    supervise_labels: Supervise | None = None
    label_loss: Loss | None = None

    def needs_features(self, teachers_of_heads: Iterable[Sized]) -> bool:
        """Whether features are read: where the method reads any, and a head has several teachers."""
        return self.reads_features and any(len(teachers) > 1 for teachers in teachers_of_heads)

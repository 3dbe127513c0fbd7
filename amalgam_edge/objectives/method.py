"""What a method is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from amalgam_edge.labels import LabelSpace
from amalgam_edge.scores import TeacherScores
from amalgam_edge.supervision import Supervision


@dataclass(frozen=True)
class MethodSettings:
    """The parameters that methods may read.

    Attributes:
        reweight: weight each text by the margin between its two most certain teachers.
        score_temperature: τ of the softmax over teachers' scores.
        distillation_temperature: T of distillation on logits.
    """

    reweight: bool = True
    score_temperature: float = 0.2
    distillation_temperature: float = 2.0


Supervise = Callable[[Sequence[TeacherScores], LabelSpace, MethodSettings], Supervision]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, MethodSettings], torch.Tensor]


@dataclass(frozen=True)
class Method:
    """A named way to amalgamate.

    Attributes:
        name: as given to ``--method``.
        summary: one line.
        paper: where it comes from.
        supervise: teachers' scores → supervision.
        loss: (student logits ``(n, n_labels)``, target ``(n, n_labels)``, weight ``(n,)``, settings) → scalar.
    """

    name: str
    summary: str
    paper: str
    supervise: Supervise
    loss: Loss

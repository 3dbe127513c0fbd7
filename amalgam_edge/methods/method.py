"""What a method is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.objective import Objective, Shapes
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.scoring.scores import TeacherScores


@dataclass(frozen=True)
class Evidence:
    """What supervision is made of.

    Attributes:
        scores: each teacher's, in the order of the label space's teachers.
        labels: the label space.
        features: what the student's encoder makes of each text before any training, ``(n_texts, width)``; None where
            the method reads none.
    """

    scores: Sequence[TeacherScores]
    labels: LabelSpace
    features: np.ndarray | None = None


Supervise = Callable[[Evidence, MethodSettings], Supervision]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, MethodSettings], torch.Tensor]
BuildObjective = Callable[[Shapes, MethodSettings], Objective]


@dataclass(frozen=True)
class Method:
    """A named way to amalgamate: its supervision, and the loss under which the student meets it.

    Attributes:
        name: as given to ``--method``.
        summary: one line.
        paper: where it comes from.
        parameters: the settings that it reads.
        supervise: teachers' scores, and what else it reads → supervision.
        loss: (student logits ``(n, n_labels)``, target ``(n, n_labels)``, weight ``(n,)``, settings) → scalar.
        objective: (shapes, settings) → what the student is trained under in the place of the loss, where that reads
            what the teachers say too, and may have trainable parts; the loss is then what its head starts from.
        reads_hidden: whether the objective reads the teachers' hidden states, which are then computed.
        reads_features: whether supervision reads what the student's encoder makes of the texts, which is then computed.
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

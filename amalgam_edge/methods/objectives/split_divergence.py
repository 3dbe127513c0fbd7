"""The objective of UHC, after "Unifying Heterogeneous Classifiers with Distillation" (arXiv 1904.06062)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Shapes
from amalgam_edge.methods.objectives.objective import Objective, TrainingBatch
from amalgam_edge.recipe.sections import MethodSettings


class SplitDivergence(Objective):
    """T² · Σ_i mean KL(softmax(f_i / T) ‖ softmax(student[Y_i] / T)).

    The student's distribution is restricted to the labels Y_i of each teacher and renormalised, which is the softmax
    over these labels alone. A label that several teachers know is part of each of their terms.
    """

    def __init__(self, shapes: Shapes, settings: MethodSettings) -> None:
        super().__init__()
        self._columns = [list(columns) for columns in shapes.columns]
        self._settings = settings

    def forward(self, batch: TrainingBatch) -> torch.Tensor:
        """The loss of a batch, a scalar."""
        temperature = self._settings.distillation_temperature
        terms = [
            vanilla_kd.loss(
                batch.logits[:, columns], F.softmax(teacher_logits / temperature, -1), batch.weight, self._settings
            )
            for columns, teacher_logits in zip(self._columns, batch.teacher_logits, strict=True)
        ]
        return torch.stack(terms).sum()

"""UHC: on each teacher's labels, renormalised, the student says what that teacher says."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Method
from amalgam_edge.methods.objective import Batch, Objective, Shapes
from amalgam_edge.recipe.sections import MethodSettings


class SplitDivergence(Objective):
    """T² · Σ_i mean KL(softmax(f_i / T) ‖ softmax(student[Y_i] / T)).

    The softmax over a teacher's labels alone is the student's, split and renormalised. A label that teachers share is
    in the part of each.
    """

    def __init__(self, shapes: Shapes, settings: MethodSettings) -> None:
        super().__init__()
        self._columns = [list(columns) for columns in shapes.columns]
        self._settings = settings

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss, a scalar."""
        temperature = self._settings.distillation_temperature
        parts = [
            vanilla_kd.loss(batch.logits[:, columns], F.softmax(told / temperature, -1), batch.weight, self._settings)
            for columns, told in zip(self._columns, batch.teacher_logits, strict=True)
        ]
        return torch.stack(parts).sum()


# Supervision is what the head starts from and what scores are calibrated to; the objective reads its weights alone.
METHOD = Method(
    name="uhc",
    summary="each teacher's softmax at T, by the student's over the labels of that teacher",
    paper="arXiv 1904.06062",
    parameters=("distillation_temperature",),
    supervise=vanilla_kd.supervise,
    loss=vanilla_kd.loss,
    objective=SplitDivergence,
)

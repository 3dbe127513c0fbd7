"""DFA: vanilla distillation, and a student's hidden state that is the teachers' compressed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Method
from amalgam_edge.methods.objective import Batch, Objective, Shapes
from amalgam_edge.recipe.sections import MethodSettings


class FeatureAmalgamation(Objective):
    """Vanilla KD + λ · mean (h − [A z])² + μ · mean (B A z − z)², z the teachers' hidden states end to end.

    A compresses to the width of the student's hidden state h, B leads back. [·] lets no gradient through: as in the
    paper, where it is trained beforehand, the target is made to keep what the teachers know and not to please the
    student.
    """

    def __init__(self, shapes: Shapes, settings: MethodSettings) -> None:
        super().__init__()
        width = sum(shapes.teacher_widths)
        self._settings = settings
        self.encoder = torch.nn.Linear(width, shapes.student_width)
        self.decoder = torch.nn.Linear(shapes.student_width, width)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss, a scalar."""
        hidden = torch.cat(batch.teacher_hidden, dim=-1)
        amalgamated = self.encoder(hidden)
        return (
            vanilla_kd.loss(batch.logits, batch.target, batch.weight, self._settings)
            + self._settings.feature_weight * F.mse_loss(batch.hidden, amalgamated.detach())
            + self._settings.reconstruction_weight * F.mse_loss(self.decoder(amalgamated), hidden)
        )


METHOD = Method(
    name="dfa",
    summary="vanilla-kd, and the teachers' hidden states, compressed to one",
    paper="arXiv 1811.02796",
    parameters=("distillation_temperature", "feature_weight", "reconstruction_weight"),
    supervise=vanilla_kd.supervise,
    loss=vanilla_kd.loss,
    objective=FeatureAmalgamation,
    reads_hidden=True,
)

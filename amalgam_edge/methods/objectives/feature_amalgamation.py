"""The objective of DFA, after "Amalgamating Knowledge towards Comprehensive Classification" (arXiv 1811.02796)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Shapes
from amalgam_edge.methods.objectives.objective import Objective, TrainingBatch
from amalgam_edge.recipe.sections import MethodSettings


class FeatureAmalgamation(Objective):
    """Vanilla KD + λ · mean (h − [A z])² + μ · mean (B A z − z)², where z are the teachers' concatenated hidden states.

    The encoder A compresses z to the width of the student's hidden state h; the decoder B maps it back. No gradient
    flows through [·]. In the paper the encoder is trained beforehand. Stopping the gradient has the same effect: the
    encoder learns to keep what the teachers know, not to match the student.
    """

    def __init__(self, shapes: Shapes, settings: MethodSettings) -> None:
        super().__init__()
        width = sum(shapes.teacher_widths)
        self._settings = settings
        self.encoder = torch.nn.Linear(width, shapes.student_width)
        self.decoder = torch.nn.Linear(shapes.student_width, width)

    def forward(self, batch: TrainingBatch) -> torch.Tensor:
        """The loss of a batch, a scalar."""
        hidden = torch.cat(batch.teacher_hidden, dim=-1)
        amalgamated = self.encoder(hidden)
        return (
            vanilla_kd.loss(batch.logits, batch.target, batch.weight, self._settings)
            + self._settings.feature_weight * F.mse_loss(batch.hidden, amalgamated.detach())
            + self._settings.reconstruction_weight * F.mse_loss(self.decoder(amalgamated), hidden)
        )

"""The objective of CFL, after "Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning"."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Shapes
from amalgam_edge.methods.objectives.objective import Objective, TrainingBatch
from amalgam_edge.recipe.sections import MethodSettings

BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0)  # widths of the Gaussian kernels; unit vectors are at most 2 apart


class CommonFeatures(Objective):
    """Vanilla KD + λ · Σ_i MMD²(c, c_i) + μ · Σ_i mean (D_i c_i − h_i)² (arXiv 1906.10546).

    A hidden state h (of the student or of teacher i) maps to c = E · relu(P · h) in the common space. Each network has
    a projection P; all share the extractor E. The decoder D_i maps c_i back to the hidden state h_i. MMD² is computed
    over the texts of a batch.
    """

    def __init__(self, shapes: Shapes, settings: MethodSettings) -> None:
        super().__init__()
        common_width = settings.common_width
        self._settings = settings
        self.student_projection = torch.nn.Linear(shapes.student_width, common_width)
        self.teacher_projections = torch.nn.ModuleList(
            torch.nn.Linear(width, common_width) for width in shapes.teacher_widths
        )
        self.extractor = torch.nn.Linear(common_width, common_width)
        self.decoders = torch.nn.ModuleList(torch.nn.Linear(common_width, width) for width in shapes.teacher_widths)

    def forward(self, batch: TrainingBatch) -> torch.Tensor:
        """The loss of a batch, a scalar."""
        loss = vanilla_kd.loss(batch.logits, batch.target, batch.weight, self._settings)
        student = self._common(self.student_projection, batch.hidden)
        for projection, decoder, hidden in zip(
            self.teacher_projections, self.decoders, batch.teacher_hidden, strict=True
        ):
            teacher = self._common(projection, hidden)
            loss = loss + self._settings.feature_weight * squared_discrepancy(student, teacher)
            loss = loss + self._settings.reconstruction_weight * F.mse_loss(decoder(teacher), hidden)
        return loss

    def _common(self, projection: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.extractor(F.relu(projection(hidden)))
        return features


def squared_discrepancy(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy between the directions of two samples, a scalar.

    MMD² = mean k(x, x') + mean k(y, y') − 2 · mean k(x, y), where k is the mean of Gaussian kernels of the widths in
    :data:`BANDWIDTHS`. The means run over all pairs, including each vector with itself.

    Args:
        one: Vectors ``(n, width)``; x are these, scaled to length 1.
        other: Vectors ``(m, width)``; y are these, scaled to length 1.
    """
    x, y = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    return _kernel(x, x).mean() + _kernel(y, y).mean() - 2 * _kernel(x, y).mean()


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    squared_distances = (x[:, None] - y[None]).square().sum(dim=-1)
    return torch.stack([torch.exp(-squared_distances / (2 * width**2)) for width in BANDWIDTHS]).mean(dim=0)

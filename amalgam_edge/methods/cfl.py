"""CFL: vanilla distillation, and hidden states that are alike in a space which all networks are mapped into."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Method
from amalgam_edge.methods.objective import Batch, Objective, Shapes
from amalgam_edge.recipe.sections import MethodSettings

BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0)  # of the kernels; unit vectors are at most 2 apart


class CommonFeatures(Objective):
    """Vanilla KD + λ · Σ_i MMD²(c, c_i) + μ · Σ_i mean (D_i c_i − h_i)².

    A hidden state h, the student's or that of teacher i, is c = E · relu(P · h) in the common space: the projection P
    is its network's own, the extractor E is everybody's. D_i leads back. The discrepancy is that of a batch.
    """

    def __init__(self, shapes: Shapes, settings: MethodSettings) -> None:
        super().__init__()
        width = settings.common_width
        self._settings = settings
        self.student_projection = torch.nn.Linear(shapes.student_width, width)
        self.teacher_projections = torch.nn.ModuleList(torch.nn.Linear(own, width) for own in shapes.teacher_widths)
        self.extractor = torch.nn.Linear(width, width)
        self.decoders = torch.nn.ModuleList(torch.nn.Linear(width, own) for own in shapes.teacher_widths)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss, a scalar."""
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
    """MMD² of the directions of two samples ``(n, width)`` and ``(m, width)``: mean k(x, x') + k(y, y') − 2 k(x, y).

    k is the mean of Gaussian kernels of the widths in :data:`BANDWIDTHS`; all pairs count, each with itself too.
    """
    x, y = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    return _kernel(x, x).mean() + _kernel(y, y).mean() - 2 * _kernel(x, y).mean()


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    squares = (x[:, None] - y[None]).square().sum(dim=-1)
    return torch.stack([torch.exp(-squares / (2 * width**2)) for width in BANDWIDTHS]).mean(dim=0)


METHOD = Method(
    name="cfl",
    summary="vanilla-kd, and the teachers' hidden states in a common space",
    paper="arXiv 1906.10546",
    parameters=("distillation_temperature", "feature_weight", "reconstruction_weight", "common_width"),
    supervise=vanilla_kd.supervise,
    loss=vanilla_kd.loss,
    objective=CommonFeatures,
    reads_hidden=True,
)

"""CFL: vanilla distillation, and hidden states that are alike in a common feature space (arXiv 1906.10546)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Method, Shapes
from amalgam_edge.recipe.sections import MethodSettings

if TYPE_CHECKING:
    from amalgam_edge.methods.objectives import Objective


def objective(shapes: Shapes, settings: MethodSettings) -> Objective:
    """Vanilla KD + λ · Σ_i MMD²(c, c_i) + μ · Σ_i mean (D_i c_i − h_i)², c in the common space."""
    from amalgam_edge.methods.objectives.common_features import CommonFeatures

    return CommonFeatures(shapes, settings)


METHOD = Method(
    name="cfl",
    summary="vanilla-kd, and the teachers' hidden states in a common space",
    paper="arXiv 1906.10546",
    parameters=("distillation_temperature", "feature_weight", "reconstruction_weight", "common_width"),
    supervise=vanilla_kd.supervise,
    loss=vanilla_kd.loss,
    objective=objective,
    reads_hidden=True,
)

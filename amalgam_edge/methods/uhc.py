"""UHC: over the labels of each teacher, renormalised, the student imitates that teacher (arXiv 1904.06062)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Method, Shapes
from amalgam_edge.recipe.sections import MethodSettings

if TYPE_CHECKING:
    from amalgam_edge.methods.objectives import Objective


def objective(shapes: Shapes, settings: MethodSettings) -> Objective:
    """T² · Σ_i mean KL(softmax(f_i / T) ‖ softmax(student[Y_i] / T))."""
    from amalgam_edge.methods.objectives.split_divergence import SplitDivergence

    return SplitDivergence(shapes, settings)


# The objective reads only the weights of the supervision. Its targets are what the student's head is first fitted to,
# and what the student's scores are calibrated to.
METHOD = Method(
    name="uhc",
    summary="each teacher's softmax at T, by the student's over the labels of that teacher",
    paper="arXiv 1904.06062",
    parameters=("distillation_temperature",),
    supervise=vanilla_kd.supervise,
    loss=vanilla_kd.loss,
    objective=objective,
)

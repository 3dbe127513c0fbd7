"""DFA: vanilla distillation, and a hidden state that equals the teachers' compressed ones (arXiv 1811.02796)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam_edge.methods import vanilla_kd
from amalgam_edge.methods.method import Method, Shapes
from amalgam_edge.recipe.sections import MethodSettings

if TYPE_CHECKING:
    from amalgam_edge.methods.objectives import Objective


def objective(shapes: Shapes, settings: MethodSettings) -> Objective:
    """Vanilla KD + λ · mean (h − [A z])² + μ · mean (B A z − z)², z the teachers' concatenated hidden states."""
    from amalgam_edge.methods.objectives.feature_amalgamation import FeatureAmalgamation

    return FeatureAmalgamation(shapes, settings)


METHOD = Method(
    name="dfa",
    summary="vanilla-kd, and the teachers' hidden states, compressed to one",
    paper="arXiv 1811.02796",
    parameters=("distillation_temperature", "feature_weight", "reconstruction_weight"),
    supervise=vanilla_kd.supervise,
    loss=vanilla_kd.loss,
    objective=objective,
    reads_hidden=True,
)

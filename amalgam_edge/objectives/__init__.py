"""The methods: how supervision is made from scores, and the loss under which the student meets it."""

from amalgam_edge.objectives import muka_hard, muka_soft, vanilla_kd
from amalgam_edge.objectives.method import Method, MethodSettings
from amalgam_edge.objectives.muka_loss import weighted_divergence

METHODS: dict[str, Method] = {method.name: method for method in (muka_soft.METHOD, muka_hard.METHOD, vanilla_kd.METHOD)}

__all__ = ["METHODS", "Method", "MethodSettings", "weighted_divergence"]

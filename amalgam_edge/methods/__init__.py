"""The methods: how supervision is made from scores, and the loss under which the student meets it."""

from dataclasses import asdict
from typing import Any

from amalgam_edge.methods import cfl, dfa, muka_hard, muka_soft, refined, uhc, vanilla_kd
from amalgam_edge.methods.method import Evidence, Method
from amalgam_edge.methods.muka_loss import weighted_divergence
from amalgam_edge.methods.objective import Batch, Objective, Shapes, Told
from amalgam_edge.recipe.sections import MethodSettings

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        refined.METHOD,
        muka_soft.METHOD,
        muka_hard.METHOD,
        vanilla_kd.METHOD,
        uhc.METHOD,
        cfl.METHOD,
        dfa.METHOD,
    )
}


def catalogue() -> list[dict[str, Any]]:
    """Each method's name, summary and paper, and the parameters that it reads with their defaults."""
    defaults = asdict(MethodSettings())
    return [
        {
            "name": method.name,
            "summary": method.summary,
            "paper": method.paper,
            "parameters": {name: defaults[name] for name in method.parameters},
        }
        for method in METHODS.values()
    ]


__all__ = [
    "METHODS",
    "Batch",
    "Evidence",
    "Method",
    "MethodSettings",
    "Objective",
    "Shapes",
    "Told",
    "catalogue",
    "weighted_divergence",
]

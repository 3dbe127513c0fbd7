"""The methods by which teachers become one student: how supervision is computed, and the loss the student learns under.

In: :class:`MethodInputs` (teacher scores, label space, features). Out: :class:`~.supervision.Supervision` and a loss.
Importing this package loads neither torch nor transformers; a method imports torch when a student is trained.
"""

from dataclasses import asdict
from typing import Any

from amalgam_edge.errors import AmalgamError
from amalgam_edge.methods import cfl, dfa, muka_hard, muka_soft, refined, uhc, vanilla_kd
from amalgam_edge.methods.losses import weighted_divergence
from amalgam_edge.methods.method import Method, MethodInputs, Shapes
from amalgam_edge.methods.teacher_signals import TeacherSignals
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


def method_named(name: str) -> Method:
    """The method of a name.

    Raises:
        AmalgamError: There is no such method.
    """
    if name not in METHODS:
        raise AmalgamError(f"no method '{name}'; there are {', '.join(METHODS)}")
    return METHODS[name]


def catalogue() -> list[dict[str, Any]]:
    """Name, summary and paper of each method, and the parameters that it reads with their defaults."""
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
    "Method",
    "MethodInputs",
    "MethodSettings",
    "Shapes",
    "TeacherSignals",
    "catalogue",
    "method_named",
    "weighted_divergence",
]

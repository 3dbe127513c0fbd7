"""The list of steps of a build: everything that a step needs is made before it, and is of the type it expects."""

from __future__ import annotations

import inspect
from functools import partial
from typing import get_type_hints

import pytest

from amalgam_edge.building.build_steps import build_steps
from amalgam_edge.building.pipeline import _first_values
from amalgam_edge.methods import METHODS
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.backends import Backend

BASE = {"teachers": ["a", "b"], "corpus": "c", "student": "s", "output": "o"}
VARIANTS = [
    *({"method": method} for method in METHODS),
    {"passes": "auto"},
    {"engine": "ray"},
    {"student_layers": [3, 6], "budget": "size<=1MB", "trim_vocabulary": True},
    {"cascade": True, "evaluate": "labelled.csv"},
    {"calibrate": False, "trim_vocabulary": True},
    {"launch": 2},
]
BACKEND = Backend("torch", "cpu")
GIVEN = {"processes", "resume", "training_folder", "folder"}


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_what_a_step_needs_is_made_before_it(settings):
    recipe = Recipe(**{**BASE, **settings})
    known = {*_first_values(recipe, BACKEND), *GIVEN}
    for step in build_steps(recipe, BACKEND):
        assert set(step.needs) <= known, step
        if step.makes:
            known.add(step.makes)
    assert "manifest" in known


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_step_gets_the_type_that_it_expects(settings):
    recipe = Recipe(**{**BASE, **settings})
    made = {}
    for step in build_steps(recipe, BACKEND):
        function = step.run.func if isinstance(step.run, partial) else step.run
        hints = get_type_hints(function)
        for parameter in inspect.signature(step.run).parameters:
            name = step.renames.get(parameter, parameter)
            if isinstance(name, str) and name in made and not _is_general(hints[parameter]):
                assert made[name] in (hints[parameter], *getattr(hints[parameter], "__args__", ())), (step, parameter)
        if step.makes and "return" in hints:
            made[step.makes] = hints["return"]


def _is_general(hint):
    """Sequences and unions accept more than one type: mypy checks the functions, this the wiring of plain types."""
    return not inspect.isclass(hint)


@pytest.mark.parametrize(
    ("settings", "titles"),
    [
        (
            {"method": "muka-soft"},
            ["reading texts", "loading teachers and student", "scoring with a, 10 passes, torch on cpu",
             "scoring with b, 10 passes, torch on cpu", "training the student", "calibrating", "exporting to ONNX",
             "quantizing and measuring", "writing the bundle"],
        ),
        (
            {"method": "cfl", "passes": "auto", "calibrate": False, "cascade": True, "evaluate": "x"},
            ["reading texts", "loading teachers and student", "scoring with a and b, auto passes, torch on cpu",
             "reading hidden states", "training the student", "exporting to ONNX", "quantizing and measuring",
             "training the cascade's static student", "setting the cascade's threshold",
             "evaluating on labelled texts", "writing the bundle"],
        ),
        (
            {"engine": "ray", "student_layers": [3, 6], "budget": "size<=1MB", "trim_vocabulary": True},
            ["reading texts", "loading teachers and student", "scoring with a and b, 10 passes, on Ray",
             "reading the texts with the student's encoder",
             "training the student of 3 layers", "trimming the vocabulary, 3 layers", "calibrating, 3 layers",
             "training the student of 6 layers", "trimming the vocabulary, 6 layers", "calibrating, 6 layers",
             "exporting to ONNX, 3 layers", "quantizing and measuring, 3 layers",
             "exporting to ONNX, 6 layers", "quantizing and measuring, 6 layers", "writing the bundle"],
        ),
        (
            {"heads": "each"},  # refined reads features, but not for heads of one teacher
            ["reading texts", "loading teachers and student", "scoring with a, 10 passes, torch on cpu",
             "scoring with b, 10 passes, torch on cpu", "training the student", "calibrating", "exporting to ONNX",
             "quantizing and measuring", "writing the bundle"],
        ),
    ],
)  # fmt: skip
def test_the_steps_that_people_see(settings, titles):
    steps = build_steps(Recipe(**{**BASE, **settings}), BACKEND)
    assert [step.title for step in steps if step.title] == titles

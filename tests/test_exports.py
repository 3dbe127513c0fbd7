"""The library's public face: its names, and how little it loads."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import pytest

import amalgam_edge

EXPORTS = [
    "AmalgamError",
    "Bundle",
    "EdgeClassifier",
    "HeadPredictions",
    "LabelSet",
    "Prediction",
    "Recipe",
    "__version__",
    "add_head",
    "build",
    "drop_head",
    "evaluate",
    "export_teacher",
    "optimize",
    "replace_head",
    "score",
]


def test_the_exports_are_these_and_no_others():
    """Adding a name here is a promise to keep it; taking one away breaks somebody's code."""
    assert amalgam_edge.__all__ == EXPORTS
    assert set(EXPORTS) <= set(dir(amalgam_edge))


@pytest.mark.parametrize("name", EXPORTS)
def test_each_export_is_there_documented_and_typed(name):
    exported = getattr(amalgam_edge, name)
    if name == "__version__":
        assert exported.count(".") == 2
        return
    assert exported.__doc__
    if not isinstance(exported, type):
        assert "return" in exported.__annotations__


def test_a_name_that_is_not_exported_is_missed():
    with pytest.raises(AttributeError, match="nothing"):
        amalgam_edge.nothing  # noqa: B018


def test_functions_stay_functions_once_everything_is_imported():
    """A sub-package of the same name would take the function's place."""
    code = (
        "import amalgam_edge, pkgutil, importlib\n"
        "for module in pkgutil.iter_modules(amalgam_edge.__path__):\n"
        "    importlib.import_module(f'amalgam_edge.{module.name}')\n"
        "assert all(callable(getattr(amalgam_edge, name)) for name in amalgam_edge.__all__ if name != '__version__')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded when some code has run in a process of its own."""
    show = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    finished = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True)
    return set(finished.stdout.split())


HEAVY = {"torch", "transformers", "datasets", "onnx", "onnxruntime", "pyarrow", "pydantic", "rich", "fsspec", "yaml"}


def test_importing_the_library_loads_nothing_heavy():
    assert not modules_after("import amalgam_edge") & (HEAVY | {"numpy", "click", "tokenizers"})


@pytest.mark.parametrize("name", ["AmalgamError", "build", "score", "evaluate", "optimize", "export_teacher", "Recipe"])
def test_importing_a_function_loads_nothing_heavy(name):
    assert not modules_after(f"from amalgam_edge import {name}") & (HEAVY | {"numpy"})


def test_opening_a_bundle_needs_no_runtime(bundle_folder):
    assert not modules_after(f"import amalgam_edge; amalgam_edge.Bundle.open({str(bundle_folder)!r})") & HEAVY


@pytest.mark.parametrize("name", ["build", "score", "export_teacher"])
def test_settings_are_typed_keyword_arguments(name):
    from amalgam_edge.recipe.fields import RecipeFields

    names = {"RecipeFields": RecipeFields, "Bundle": object, "ScoreSummary": object, "TeacherManifest": object}
    hints = get_type_hints(getattr(amalgam_edge, name), localns=names)
    assert RecipeFields in hints["settings"].__args__


@pytest.mark.parametrize("call", [amalgam_edge.build, amalgam_edge.score])
def test_a_mistyped_setting_is_one_line(call):
    with pytest.raises(amalgam_edge.AmalgamError, match="epoch: there is no such setting; did you mean epochs"):
        call(epoch=3)

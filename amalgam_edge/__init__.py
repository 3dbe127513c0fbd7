"""amalgam-edge: merge fine-tuned text classifiers into one small ONNX model, without labels.

The names below are the library. Each is imported when it is first used, so that ``import amalgam_edge`` is instant and
loads neither torch nor onnxruntime. The import also turns the telemetry of libraries off, before any of them is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from amalgam_edge.telemetry import turn_off_telemetry

if TYPE_CHECKING:
    from amalgam_edge.api import add_head as add_head
    from amalgam_edge.api import build as build
    from amalgam_edge.api import drop_head as drop_head
    from amalgam_edge.api import evaluate as evaluate
    from amalgam_edge.api import export_teacher as export_teacher
    from amalgam_edge.api import optimize as optimize
    from amalgam_edge.api import replace_head as replace_head
    from amalgam_edge.api import score as score
    from amalgam_edge.errors import AmalgamError as AmalgamError
    from amalgam_edge.recipe.recipe import Recipe as Recipe
    from amalgam_edge.runtime.bundle import Bundle as Bundle
    from amalgam_edge.runtime.classifier import EdgeClassifier as EdgeClassifier
    from amalgam_edge.runtime.predictions import HeadPredictions as HeadPredictions
    from amalgam_edge.runtime.predictions import LabelSet as LabelSet
    from amalgam_edge.runtime.predictions import Prediction as Prediction

    __version__: str

turn_off_telemetry()

_EXPORTS = {
    "AmalgamError": "amalgam_edge.errors",
    "Bundle": "amalgam_edge.runtime.bundle",
    "EdgeClassifier": "amalgam_edge.runtime.classifier",
    "HeadPredictions": "amalgam_edge.runtime.predictions",
    "LabelSet": "amalgam_edge.runtime.predictions",
    "Prediction": "amalgam_edge.runtime.predictions",
    "Recipe": "amalgam_edge.recipe.recipe",
    "add_head": "amalgam_edge.api",
    "build": "amalgam_edge.api",
    "drop_head": "amalgam_edge.api",
    "evaluate": "amalgam_edge.api",
    "export_teacher": "amalgam_edge.api",
    "optimize": "amalgam_edge.api",
    "replace_head": "amalgam_edge.api",
    "score": "amalgam_edge.api",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    """Import an exported name, or look up the version, when it is first asked for."""
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    if name == "__version__":
        from amalgam_edge.environment import own_version

        return own_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The exported names, for completion in editors and notebooks."""
    return sorted({*globals(), *__all__})

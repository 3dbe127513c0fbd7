"""A bundle at the edge: loaded, checked, and asked. Needs numpy, tokenizers and onnxruntime; nothing else.

In: a bundle's folder and texts. Out: labels and scores. Names are imported when first used, so that the manifest can be
read without onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amalgam_edge.runtime.bundle import Bundle as Bundle
    from amalgam_edge.runtime.classifier import EdgeClassifier as EdgeClassifier
    from amalgam_edge.runtime.predictions import HeadPredictions as HeadPredictions
    from amalgam_edge.runtime.predictions import LabelSet as LabelSet
    from amalgam_edge.runtime.predictions import Prediction as Prediction

_MODULES = {
    "Bundle": "bundle",
    "EdgeClassifier": "classifier",
    "HeadPredictions": "predictions",
    "LabelSet": "predictions",
    "Prediction": "predictions",
}

__all__ = ["Bundle", "EdgeClassifier", "HeadPredictions", "LabelSet", "Prediction"]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first asked for."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

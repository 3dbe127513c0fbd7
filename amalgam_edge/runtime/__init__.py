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
    from amalgam_edge.runtime.classifier import Prediction as Prediction

__all__ = ["Bundle", "EdgeClassifier", "Prediction"]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first asked for."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{'bundle' if name == 'Bundle' else 'classifier'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""amalgam-edge: merge fine-tuned text classifiers into one small ONNX model, without labels."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amalgam_edge.runtime import EdgeClassifier as EdgeClassifier

try:
    __version__ = version("amalgam-edge")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

__all__ = ["EdgeClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the runtime when it is first asked for, so that ``import amalgam_edge`` stays instant."""
    if name == "EdgeClassifier":
        from amalgam_edge.runtime import EdgeClassifier

        return EdgeClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""amalgam-edge: merge fine-tuned text classifiers into one small ONNX model, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amalgam_edge.runtime import EdgeClassifier as EdgeClassifier

    __version__: str

__all__ = ["EdgeClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the runtime, and look up the version, when first asked for: ``import amalgam_edge`` stays instant."""
    if name == "EdgeClassifier":
        from amalgam_edge.runtime import EdgeClassifier

        return EdgeClassifier
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # 30 ms, which no answer needs

        try:
            return version("amalgam-edge")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""ONNX Runtime sessions."""

from __future__ import annotations

from pathlib import Path

from amalgam_edge.errors import AmalgamError, MissingExtraError, first_line

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("running a model", "cpu", error) from error


def open_session(model: str | Path | bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Load an ONNX model on the CPU.

    Args:
        model: its path, or its content.
        threads: to compute with; by default one a core.

    Raises:
        AmalgamError: the file is no ONNX model that this runtime can load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    content = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each status, with no common base
        name = "model" if isinstance(model, bytes) else str(model)
        raise AmalgamError(f"{name}: onnxruntime cannot load it ({first_line(error)})") from error

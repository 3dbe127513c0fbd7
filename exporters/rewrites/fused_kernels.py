"""Which operations of a model ONNX Runtime has one kernel for: read from the graph that it makes of the model."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

_OWN_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")


def fused_kernels(model: Path) -> dict[str, int]:
    """How often the optimised graph holds each operator that is ONNX Runtime's own, most frequent first.

    Operators that are bound to the CPU of this machine are left out of the optimisation.
    """
    with tempfile.TemporaryDirectory(prefix="amalgam-kernels-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimised, load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node if node.domain in _OWN_DOMAINS).most_common())

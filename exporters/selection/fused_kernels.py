"""Which kernels ONNX Runtime fuses a model's operations into, read from the graph that it optimizes itself."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

_ONNX_RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")


def fused_kernels(model: Path) -> dict[str, int]:
    """How often the optimized graph holds each of ONNX Runtime's own operators, most frequent first.

    Optimizations that depend on the CPU of the building machine are left out, so that the counts hold elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="amalgam-kernels-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized, load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node if node.domain in _ONNX_RUNTIME_DOMAINS)
    return dict(counts.most_common())

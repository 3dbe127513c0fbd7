"""OpenVINO in float32, on one thread: where the CPU has bfloat16 its default is that, and its answers are others."""

import pytest


def compile_exactly(model):
    """A compiled model, of a path or of a stream of bytes; skips where OpenVINO is not installed."""
    openvino = pytest.importorskip("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = openvino.Core()
    return core.compile_model(core.read_model(model), "CPU", options)

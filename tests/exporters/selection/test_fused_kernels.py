"""Kernels that ONNX Runtime fuses, of a float student and of an int8 one."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, quantize_to_int8
from amalgam_edge.exporters.selection.fused_kernels import fused_kernels
from tests.support.graphs import make_graph, value_info


def test_kernels_of_a_float_model(exports):
    found = fused_kernels(exports("bert").path)
    assert found["BiasGelu"] == 2  # of each layer
    assert "MultiHeadAttention" not in found
    assert "SkipLayerNormalization" not in found  # it would be slower


def test_kernels_of_an_int8_model_most_frequent_first(exports, tmp_path):
    quantize_to_int8(exports("bert").path, tmp_path / "q.onnx", INT8_LADDER[0])
    found = fused_kernels(tmp_path / "q.onnx")
    assert found["MultiHeadAttention"] == 1
    assert found["DynamicQuantizeMatMul"] + found.get("MatMulIntegerToFloat", 0) >= 8
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_kernels_that_only_some_cpus_have_are_not_counted(tmp_path):
    """x86 CPUs would get convolutions in blocks of channels, which the machine that runs the bundle may not have."""
    image = [value_info(name, TensorProto.FLOAT, 1, 32, 8, 8) for name in ("image", "out")]
    weight = np.ones((32, 32, 3, 3), np.float32)
    node = helper.make_node("Conv", ["image", "weight"], ["out"], "conv", pads=[1, 1, 1, 1])
    graph = make_graph([node], image[:1], image[1:], weight=weight)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    assert fused_kernels(tmp_path / "model.onnx") == {}

"""Kernels that ONNX Runtime fuses, of a float student and of an int8 one."""

from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, quantize_to_int8
from amalgam_edge.exporters.selection.fused_kernels import fused_kernels


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

"""Half floats and weights in blocks, against the float model and by hand."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization.weight_only import write_fp16, write_q4, write_w8
from tests.support.graphs import make_graph, run_student, value_info

WRITERS = {"fp16": write_fp16, "w8": write_w8, "q4": write_q4}
RNG = np.random.default_rng(0)
IDS = RNG.integers(5, 390, (8, 12))
MASK = (np.arange(12) < RNG.integers(1, 13, (8, 1))).astype(np.int64)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize(("name", "correlation"), [("fp16", 0.9999), ("w8", 0.98), ("q4", 0.6)])
def test_answers_are_near_those_of_the_float_model(exports, tmp_path, architecture, name, correlation):
    """Random models amplify each rounding; real ones are measured by the gate."""
    source = exports(architecture).path
    WRITERS[name](source, tmp_path / "m.onnx")
    expected, found = run_student(source, IDS, MASK), run_student(tmp_path / "m.onnx", IDS, MASK)
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > correlation
    assert (tmp_path / "m.onnx").stat().st_size < source.stat().st_size


def test_weights_are_float16_and_outputs_float32(exports, tmp_path):
    write_fp16(exports("bert").path, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in weights} - {TensorProto.INT64} == {TensorProto.FLOAT16}
    assert {output.type.tensor_type.elem_type for output in graph.output} == {TensorProto.FLOAT}


@pytest.mark.parametrize(("write", "bits"), [(write_w8, 8), (write_q4, 4)])
def test_blocks_of_32_weights_share_a_scale(toy, tmp_path, write, bits):
    source = toy()
    write(source, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(source).graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert [node.name.partition("_")[0] for node in products] == ["w1", "w2", "w3"]
    for node in products:
        packed, scales = tensors[node.input[1]], tensors[node.input[2]]
        weight = floats[node.name.partition("_")[0]]
        levels = packed.reshape(packed.shape[0], -1)
        if bits == 4:
            levels = np.stack([levels & 15, levels >> 4], axis=-1).reshape(levels.shape[0], -1)
        restored = (levels.astype(float) - 2 ** (bits - 1)) * scales.reshape(levels.shape[0], -1).repeat(32, axis=1)
        assert np.abs(restored.T[: weight.shape[0]] - weight).max() <= np.abs(scales).max() * 1.01


@pytest.mark.parametrize(("write", "bits"), [(write_w8, 8), (write_q4, 4)])
def test_activations_are_rounded_to_int8_in_the_same_blocks(exports, tmp_path, write, bits):
    """MatMulNBits' attributes, as ONNX Runtime documents them: accuracy level 4 is int8."""
    write(exports("bert").path, tmp_path / "m.onnx")
    products = [node for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type == "MatMulNBits"]
    assert len(products) >= 7
    for node in products:
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        assert (attributes["bits"], attributes["block_size"], attributes["accuracy_level"]) == (bits, 32, 4)
        assert len(node.input) == 3 or not node.input[3]  # symmetric: no zero points


@pytest.mark.parametrize("write", [write_w8, write_q4])
def test_tables_attention_and_biased_products_are_rewritten_too(exports, tmp_path, write):
    write(exports("bert").path, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    operations = [node.op_type for node in graph.node]
    assert operations.count("MultiHeadAttention") == 1
    assert "Gemm" not in operations
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert stored["keys_by_head_int8"] == stored["values_by_head_int8"] == TensorProto.INT8
    assert TensorProto.INT8 in {kind for name, kind in stored.items() if name.endswith("_rows")}


@pytest.mark.parametrize("write", [write_w8, write_q4])
def test_log_levels_are_restored(toy, tmp_path, write):
    loggers = [logging.getLogger(), logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")]
    before = [logger.level for logger in loggers]
    write(toy(), tmp_path / "m.onnx")
    assert [logger.level for logger in loggers] == before


@pytest.mark.parametrize("write", [write_w8, write_q4])
def test_the_quantizer_s_line_for_every_node_is_kept_from_users(toy, tmp_path, caplog, write):
    caplog.set_level(logging.INFO)
    write(toy(), tmp_path / "m.onnx")
    assert caplog.messages == []


@pytest.mark.parametrize("transposed", [None, 0, 1], ids=["by default", "as it is", "transposed"])
def test_a_gemm_keeps_its_matrix_the_right_way_round(tmp_path, transposed):
    """ONNX: a Gemm without ``transB`` multiplies with the matrix as it is."""
    weight, bias = RNG.normal(size=(32, 32)).astype(np.float32), RNG.normal(size=32).astype(np.float32)
    options = {} if transposed is None else {"transB": transposed}
    graph = make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["logits"], "gemm", **options)],
        [value_info("x", TensorProto.FLOAT, "n", 32)],
        [value_info("logits", TensorProto.FLOAT, "n", 32)],
        w=weight,
        b=bias,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    write_w8(tmp_path / "m.onnx", tmp_path / "w8.onnx")
    x = RNG.normal(size=(5, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "w8.onnx", providers=["CPUExecutionProvider"])
    expected = x @ (weight.T if transposed else weight) + bias
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=0.05 * np.abs(expected).max())

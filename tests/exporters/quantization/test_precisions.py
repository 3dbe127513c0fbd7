"""Half floats and weights by blocks, against the float model and by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from amalgam_edge.exporters.quantization.precisions import WEIGHT_ONLY, write_fp16, write_q4, write_w8

RNG = np.random.default_rng(0)
IDS = RNG.integers(5, 390, (8, 12))
MASK = (np.arange(12) < RNG.integers(1, 13, (8, 1))).astype(np.int64)


def run(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": IDS, "attention_mask": MASK})[0]


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize(("name", "correlation"), [("fp16", 0.9999), ("w8", 0.98), ("q4", 0.6)])
def test_answers_are_near_those_of_the_float_model(exports, tmp_path, architecture, name, correlation):
    """Random models amplify each rounding; real ones are measured by the gate."""
    source = exports(architecture).path
    WEIGHT_ONLY[name][1](source, tmp_path / "m.onnx")
    expected, found = run(source), run(tmp_path / "m.onnx")
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > correlation
    assert (tmp_path / "m.onnx").stat().st_size < source.stat().st_size


def test_half_floats_inside_floats_outside(exports, tmp_path):
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


def test_the_source_is_left_as_it_was(exports, tmp_path):
    source = exports("bert").path
    before = source.read_bytes()
    for _, write in WEIGHT_ONLY.values():
        write(source, tmp_path / "m.onnx")
    assert source.read_bytes() == before

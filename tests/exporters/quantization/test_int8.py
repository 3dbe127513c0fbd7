"""int8 files: which numbers they hold, on real architectures and on graphs made by hand."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization.activations import Activation, constant_products
from amalgam_edge.exporters.quantization.int8 import (
    INT8_LADDER,
    Int8Settings,
    quantizable_products,
    quantize_to_int8,
    with_float_nodes,
)
from tests.support import tiny
from tests.support.graphs import initializers, make_graph, value_info

WAYS = (Int8Settings("plain"), Int8Settings("calibrated", calibrated=True), *INT8_LADDER)
PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul")


@pytest.fixture(params=tiny.ARCHITECTURES)
def exported(request, exports):
    return exports(request.param)


def int8_weights(path):
    """Of each int8 product of a file: node name → (weight, scale, zero point)."""
    graph = onnx.load(path).graph
    tensors = initializers(graph)
    found = {}
    for node in graph.node:
        if node.op_type in PRODUCTS:
            weight = node.input[1]
            stem = weight.removesuffix("_quantized")
            found[node.name] = (tensors[weight], tensors[f"{stem}_scale"], tensors[f"{stem}_zero_point"])
    return found


def float_products(path):
    """Products with a constant float matrix."""
    graph = onnx.load(path).graph
    floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    return [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in floats]


def run(path, n_texts=16):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 390, size=(n_texts, 12))
    mask = np.ones_like(ids)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def activations_on(path, feed):
    """The statistics of all multiplied values, from the values themselves as ONNX Runtime computes them."""
    model = onnx.load(path)
    sources = sorted({product.source for product in constant_products(model.graph)})
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sources)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [value.reshape(-1, value.shape[-1]) for value in session.run(sources, feed)]
    return {
        name: Activation(np.abs(value).max(axis=0), value.T @ value) for name, value in zip(sources, rows, strict=True)
    }


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.name)
def test_weights_are_signed_7_bit_numbers_with_a_scale_for_each_output(exported, tmp_path, how):
    target = tmp_path / "q.onnx"
    rng = np.random.default_rng(1)
    feed = {"input_ids": rng.integers(5, 390, (16, 12)), "attention_mask": np.ones((16, 12), np.int64)}
    quantize_to_int8(exported.path, target, how, activations_on(exported.path, feed))
    weights = int8_weights(target)
    assert len(weights) == len(quantizable_products(exported.path))
    assert len(weights) >= 7
    for weight, scale, zero in weights.values():
        assert weight.dtype == np.int8
        assert np.abs(weight.astype(int)).max() <= 64
        assert not zero.any()
        assert scale.size == zero.size == weight.shape[1]
        assert (scale > 0).all()
    assert not float_products(target)
    found, expected = run(target), run(exported.path)
    assert np.isfinite(found).all()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("name", ["w1", "w2", "w3"])
@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.name)
def test_without_activations_weights_are_the_float_ones_within_half_a_step(toy, tmp_path, how, name):
    source = toy()
    original = initializers(onnx.load(source).graph)[name]
    quantize_to_int8(source, tmp_path / "q.onnx", how)
    weights = int8_weights(tmp_path / "q.onnx")
    assert len(weights) == 3
    (weight, scale, zero) = next(found for node, found in weights.items() if node.startswith(name))
    restored = (weight.astype(np.float64) - zero.astype(np.float64)) * scale
    assert (np.abs(restored - original) <= scale * 0.51).all()
    assert np.abs(weight.astype(int)).max() >= 63


def test_float_nodes_stay_float(exported, tmp_path):
    nodes = quantizable_products(exported.path)
    assert len(set(nodes)) == len(nodes)
    for node in (nodes[0], nodes[-1]):
        quantize_to_int8(exported.path, tmp_path / "q.onnx", Int8Settings("some", float_nodes=(node,)))
        assert len(float_products(tmp_path / "q.onnx")) == 1
        assert len(int8_weights(tmp_path / "q.onnx")) == len(nodes) - 1


def test_all_nodes_in_float_leave_only_the_tables_quantized(exported, tmp_path):
    nodes = quantizable_products(exported.path)
    quantize_to_int8(exported.path, tmp_path / "q.onnx", Int8Settings("none", float_nodes=tuple(nodes)))
    assert not int8_weights(tmp_path / "q.onnx")
    assert len(float_products(tmp_path / "q.onnx")) == len(nodes)
    found, expected = run(tmp_path / "q.onnx"), run(exported.path)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def gemm_model(path):
    """x · w1ᵀ + b by Gemm as torch exports a linear layer over two axes, then a plain MatMul."""
    rng = np.random.default_rng(4)
    weights = {"g": (8, 16), "bias": (8,), "m": (8, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "g", "bias"], ["h"], "gemm", transB=1),
            helper.make_node("MatMul", ["h", "m"], ["logits"], "matmul"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), n) for n, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_every_quantizable_product_is_quantized(tmp_path):
    source, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    gemm_model(source)
    nodes = quantizable_products(source)
    assert "matmul" in nodes
    quantize_to_int8(source, target, INT8_LADDER[0])
    assert len(int8_weights(target)) == len(nodes)
    for node in nodes:
        quantize_to_int8(source, target, Int8Settings("one in float", float_nodes=(node,)))
        assert len(int8_weights(target)) == len(nodes) - 1


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.name)
def test_recorded_shapes_that_contradict_are_ignored(toy, tmp_path, how):
    source = toy()
    model = onnx.load(source)
    model.graph.value_info.extend(
        [
            helper.make_tensor_value_info("p1", TensorProto.FLOAT, ["n", 7]),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, [3, 3, 3]),
        ]
    )
    onnx.save(model, source)
    with pytest.raises(Exception, match="Inferred shape and existing shape differ"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
    quantize_to_int8(source, tmp_path / "q.onnx", how)
    assert len(int8_weights(tmp_path / "q.onnx")) == 3


def test_the_source_is_left_as_it_was(toy, tmp_path):
    source = toy()
    before = source.read_bytes()
    quantize_to_int8(source, tmp_path / "q.onnx", INT8_LADDER[0])
    assert source.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "q.onnx"}


def test_the_log_level_is_restored(toy, tmp_path):
    before = logging.getLogger().level
    quantize_to_int8(toy(), tmp_path / "q.onnx", INT8_LADDER[0])
    with pytest.raises(FileNotFoundError):
        quantize_to_int8(tmp_path / "nowhere.onnx", tmp_path / "q.onnx", INT8_LADDER[0])
    assert logging.getLogger().level == before


def test_a_quantized_student_is_smaller(exports, tmp_path):
    source = exports("bert").path
    quantize_to_int8(source, tmp_path / "q.onnx", INT8_LADDER[0])
    weights = sum(t.ByteSize() for t in onnx.load(source).graph.initializer)
    smaller = sum(t.ByteSize() for t in onnx.load(tmp_path / "q.onnx").graph.initializer)
    assert smaller < 0.5 * weights


def test_a_quantized_student_names_no_folder_of_the_builder(exports, tmp_path):
    quantize_to_int8(exports("bert").path, tmp_path / "q.onnx", INT8_LADDER[0])
    model = onnx.load(tmp_path / "q.onnx")
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    content = model.SerializeToString()
    for word in (str(tmp_path), "site-packages", ".py"):
        assert word.encode() not in content


def test_ever_more_products_stay_in_float_up_to_half():
    ranked = [f"n{k}" for k in range(11)]
    tried = list(with_float_nodes(INT8_LADDER[0], ranked))
    assert [how.float_nodes for how in tried] == [tuple(ranked[:1]), tuple(ranked[:2]), tuple(ranked[:4])]
    assert all(how.calibrated and how.gptq_rounding for how in tried)
    assert [how.name for how in tried] == [f"{INT8_LADDER[0].name}, {n} product(s) in float" for n in (1, 2, 4)]
    assert list(with_float_nodes(INT8_LADDER[0], ["alone"])) == []


def test_the_settings_that_the_gate_tries():
    """As docs/edge.md describes int8: smoothed, split and rounded by GPTQ, with no product in float."""
    (only,) = INT8_LADDER
    assert only == Int8Settings("7-bit weights", calibrated=True, gptq_rounding=True)
    assert (only.float_nodes, only.product_quantized_tables) == ((), False)
    assert Int8Settings("plain") == Int8Settings("plain", False, False, (), False)


def test_smoothing_moves_less_where_channels_are_split(toy, tmp_path):
    """docs/edge.md: α = 0.65, and 0.45 where the largest channels are split: here h1, which one product computes."""
    source = toy()
    weights = initializers(onnx.load(source).graph)
    largest = np.linspace(0.1, 2, 32)
    largest[5] = 40
    statistics = {name: Activation(largest, np.diag(largest**2)) for name in ("bag", "h1")}
    quantize_to_int8(source, tmp_path / "q.onnx", Int8Settings("calibrated", calibrated=True), statistics)
    found = initializers(onnx.load(tmp_path / "q.onnx").graph)

    def divisor(matrix, alpha):
        factors = largest**alpha / np.abs(matrix).max(axis=1) ** (1 - alpha)
        return np.exp(np.log(factors).mean()) / factors

    np.testing.assert_allclose(found["bag_divisor"], divisor(weights["w1"], 0.65), rtol=1e-4)
    split = found["h1_divisor"]
    assert split.shape == (32 + 16,)
    whole = divisor(weights["w2"], 0.45)
    kept = np.isclose(split[:32], whole, rtol=1e-4)
    assert 10 < kept.sum() < 32
    assert split[:32][~kept].sum() + split[32:].sum() == pytest.approx(whole[~kept].sum(), rel=1e-4)  # copies add up


def test_tables_are_product_quantized_only_where_that_is_asked(tmp_path):
    table = np.random.default_rng(0).normal(size=(1024, 8)).astype(np.float32)
    graph = make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"], "look_up")],
        [value_info("ids", TensorProto.INT64, "n", "t")],
        [value_info("logits", TensorProto.FLOAT, "n", "t", 8)],
        table=table,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    stored = {}
    for asked in (False, True):
        quantize_to_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", Int8Settings("x", product_quantized_tables=asked))
        stored[asked] = set(initializers(onnx.load(tmp_path / "q.onnx").graph))
    assert "table_codes" in stored[True]
    assert stored[False] == {"table_rows", "table_scales"}


def test_the_quantizer_s_advice_is_kept_from_users(toy, tmp_path, caplog):
    """It recommends a preprocessing that the exporter has done."""
    quantize_to_int8(toy(), tmp_path / "q.onnx", INT8_LADDER[0])
    assert caplog.messages == []

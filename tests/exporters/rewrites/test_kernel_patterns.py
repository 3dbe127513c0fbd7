"""Patterns that ONNX Runtime fuses, and those that it should not, on graphs made by hand."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.rewrites.kernel_patterns import prevent_skip_layer_norm_fusion, reorder_gelu
from tests.support.graphs import make_graph, run_graph, value_info


def gelu(half=0.5, turned=False, read_twice=False):
    """As the exporter writes it: x · (½ · (1 + erf(x / √2))), after a bias."""
    nodes = [
        helper.make_node("Add", ["input", "bias"], ["x"]),
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["added"]),
        helper.make_node("Mul", ["added", "half"] if turned else ["half", "added"], ["halved"]),
        helper.make_node("Mul", ["halved", "x"] if turned else ["x", "halved"], ["gelu"]),
        helper.make_node("Neg" if read_twice else "Identity", ["halved" if read_twice else "gelu"], ["output"]),
    ]
    values = {"root": math.sqrt(2), "one": 1.0, "half": half, "bias": np.arange(4) / 4}
    constants = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("gelu", "output")]
    graph = helper.make_graph(nodes, "gelu", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model, x, save_to=None):
    options = onnxruntime.SessionOptions()
    if save_to:
        options.optimized_model_filepath = str(save_to)
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(["gelu"], {"input": x})[0]


@pytest.mark.parametrize("turned", [False, True])
def test_a_gelu_is_one_kernel_afterwards_and_answers_as_before(tmp_path, turned):
    model = gelu(turned=turned)
    x = np.random.default_rng(0).normal(scale=3, size=(50, 4)).astype(np.float32)
    run(model, x, tmp_path / "before.onnx")
    assert reorder_gelu(model.graph) == 1
    onnx.checker.check_model(model, full_check=True)
    found = run(model, x, tmp_path / "after.onnx")
    shifted = x.astype(float) + np.arange(4) / 4
    exact = shifted * 0.5 * (1 + np.vectorize(math.erf)(shifted / math.sqrt(2)))
    np.testing.assert_allclose(found, exact, atol=1e-6)
    before, after = (
        {n.op_type for n in onnx.load(tmp_path / f"{name}.onnx").graph.node} for name in ("before", "after")
    )
    assert "Erf" in before
    assert "BiasGelu" in after
    assert "Erf" not in after


@pytest.mark.parametrize("other", [{"half": 0.25}, {"read_twice": True}])
def test_operations_that_are_no_gelu_stay_as_they_are(other):
    model = gelu(**other)
    before = model.SerializeToString()
    assert reorder_gelu(model.graph) == 0
    assert model.SerializeToString() == before


def residual(normalized="sum"):
    """A LayerNormalization behind a residual addition."""
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("Add", ["sum", "y"], ["more"]),
        helper.make_node("LayerNormalization", [normalized, "gamma"], ["out"]),
    ]
    values = [value_info(name, TensorProto.FLOAT, "n", 4) for name in ("x", "y", "out", "more")]
    return make_graph(nodes, values[:2], values[2:], gamma=np.ones(4, np.float32))


def test_only_additions_that_are_normalized_become_sums():
    graph = residual()
    x, y = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    before = run_graph(graph, x=x, y=y)
    assert prevent_skip_layer_norm_fusion(graph) == 1
    assert [node.op_type for node in graph.node] == ["Sum", "Add", "LayerNormalization"]
    np.testing.assert_array_equal(run_graph(graph, x=x, y=y), before)


def test_a_normalization_of_an_input_stays_as_it_is():
    assert prevent_skip_layer_norm_fusion(residual("x")) == 0

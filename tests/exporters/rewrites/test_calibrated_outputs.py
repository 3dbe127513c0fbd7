"""Temperature and probabilities at the end of graphs made by hand, against numpy."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.rewrites.calibrated_outputs import add_probabilities, divide_logits

WEIGHT = np.array([[1.0, -2.0], [0.5, 3.0], [4.0, 0.25]], np.float32)
BIAS = np.array([0.5, -1.0], np.float32)
X = np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]], np.float32)
EXPECTED = X @ WEIGHT + BIAS


def model(*nodes, **constants):
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "head", [rows], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def gemm():
    return model(helper.make_node("Gemm", ["x", "w", "b"], ["logits"]), w=WEIGHT, b=BIAS)


def added():
    product = helper.make_node("MatMul", ["x", "w"], ["product"])
    return model(product, helper.make_node("Add", ["product", "b"], ["logits"]), w=WEIGHT, b=BIAS)


def tied():
    """The bias is read twice, so it must stay as it is."""
    twice = helper.make_node("Add", ["x", "c"], ["shifted"])
    weight = np.eye(3, dtype=np.float32)
    return model(twice, helper.make_node("Gemm", ["shifted", "w", "c"], ["logits"]), w=weight, c=X[0])


def run(made):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})


@pytest.mark.parametrize(("make", "nodes"), [(gemm, 1), (added, 3)])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_logits_are_divided(make, nodes, temperature):
    made = make()
    divide_logits(made.graph, temperature)
    np.testing.assert_allclose(run(made)[0], EXPECTED / temperature, rtol=1e-6)
    assert len(made.graph.node) == (nodes if temperature != 1.0 else len(make().graph.node))


def test_weights_that_something_else_reads_are_not_divided():
    made = tied()
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    divide_logits(made.graph, 2.0)
    np.testing.assert_allclose(run(made)[0], (X + 2 * X[0]) / 2, rtol=1e-6)


def test_probabilities_stand_beside_the_logits():
    made = gemm()
    add_probabilities(made.graph)
    logits, probabilities = run(made)
    np.testing.assert_allclose(logits, EXPECTED, rtol=1e-6)
    np.testing.assert_allclose(probabilities, np.exp(EXPECTED) / np.exp(EXPECTED).sum(1, keepdims=True), rtol=1e-5)

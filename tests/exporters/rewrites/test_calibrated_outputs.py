"""Temperature and probabilities at the end of graphs made by hand, against numpy."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.rewrites.calibrated_outputs import add_probabilities, divide_logits
from amalgam_edge.heads import Head, Heads

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


HEADS = Heads((Head("a", "softmax", ("x", "y")), Head("b", "sigmoid", ("z",)), Head("c", "softmax", ("u", "v", "w"))))
WIDE = np.arange(18, dtype=np.float32).reshape(3, 6) / 7 - 1


def wide(transposed):
    weight = np.ascontiguousarray(WIDE.T) if transposed else WIDE
    node = helper.make_node("Gemm", ["x", "w", "b"], ["logits"], transB=int(transposed))
    made = model(node, w=weight, b=np.arange(6, dtype=np.float32))
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    return made


@pytest.mark.parametrize("transposed", [False, True])
def test_each_logit_has_a_temperature_of_its_own(transposed):
    temperatures = np.array([0.5, 0.5, 2.0, 1.0, 1.0, 1.0])
    made = wide(transposed)
    divide_logits(made.graph, temperatures)
    np.testing.assert_allclose(run(made)[0], (X @ WIDE + np.arange(6)) / temperatures, rtol=1e-5)


def test_each_head_has_probabilities_of_its_own():
    made = wide(transposed=False)
    add_probabilities(made.graph, HEADS)
    logits, found = run(made)
    expected = np.concatenate(
        [softmax(logits[:, :2]), 1 / (1 + np.exp(-logits[:, 2:3])), softmax(logits[:, 3:])], axis=1
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_sigmoid_head_needs_one_node():
    made = gemm()
    add_probabilities(made.graph, Heads((Head("b", "sigmoid", ("x", "y")),)))
    assert [node.op_type for node in made.graph.node] == ["Gemm", "Sigmoid"]
    logits, found = run(made)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-6)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)

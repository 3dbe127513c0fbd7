"""Smoothing, on a graph made by hand."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.smoothing import products, range_outputs, smooth

RNG = np.random.default_rng(0)
WEIGHTS = {"q": RNG.normal(size=(6, 4)), "k": RNG.normal(size=(6, 4)), "g": RNG.normal(size=(3, 4)), "b": np.ones(3)}
X = RNG.normal(size=(2, 5, 6)) * [1, 1, 50, 1, 0.1, 0]


def model(shared=False):
    """q and k of one input, then a Gemm of transposed weights over the flattened sum; or k of another input."""
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["xq"], "first"),
        helper.make_node("Tanh", ["x"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t" if shared else "x", "q" if shared else "k"], ["xk"], "second"),
        helper.make_node("Add", ["xq", "xk"], ["sum"], "sum"),
        helper.make_node("Reshape", ["sum", "flat"], ["rows"], "reshape"),
        helper.make_node("Gemm", ["rows", "g", "b"], ["logits"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in WEIGHTS.items()]
        + [numpy_helper.from_array(np.array([-1, 4]), "flat")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(made):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X.astype(np.float32)})


def by_hand():
    return ((X @ WEIGHTS["q"] + X @ WEIGHTS["k"]).reshape(-1, 4)) @ WEIGHTS["g"].T + 1


def test_products_and_what_they_multiply():
    found = products(model().graph)
    assert [(p.node, p.source, p.weight, p.transposed) for p in found] == [
        ("first", "x", "q", False), ("second", "x", "k", False), ("gemm", "rows", "g", True),
    ]  # fmt: skip


def test_ranges_are_the_largest_magnitudes():
    made = model()
    names = range_outputs(made.graph)
    found = dict(zip(names, run(made)[1:], strict=True))
    np.testing.assert_allclose(found["x"], np.abs(X).max(axis=(0, 1)), rtol=1e-6)
    rows = (X @ WEIGHTS["q"] + X @ WEIGHTS["k"]).reshape(-1, 4)
    np.testing.assert_allclose(found["rows"], np.abs(rows).max(axis=0), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_smoothing_changes_no_answer(alpha):
    made = model()
    ranges = {"x": np.abs(X).max(axis=(0, 1)), "rows": np.array([1.0, 2.0, 3.0, 4.0])}
    smooth(made.graph, ranges, alpha)
    np.testing.assert_allclose(run(made)[0], by_hand(), rtol=1e-4, atol=1e-4)
    assert [node.op_type for node in made.graph.node].count("Mul") == 2


def test_channels_become_alike_in_size():
    made = model()
    largest = np.abs(X).max(axis=(0, 1))
    smooth(made.graph, {"x": largest}, 1.0)
    divide = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "x_divide")
    seen = largest * divide
    assert seen[:5].max() / seen[:5].min() == pytest.approx(1.0, rel=1e-4)
    assert np.isfinite(divide).all()  # the last channel is always zero


def test_weights_that_layers_share_stay():
    made = model(shared=True)
    before = made.SerializeToString()
    smooth(made.graph, {"x": np.abs(X).max(axis=(0, 1)), "t": np.ones(6)})
    assert made.SerializeToString() == before

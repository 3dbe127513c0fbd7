"""Statistics of multiplied values, on a graph made by hand, against numpy."""

import numpy as np
import onnxruntime
import pytest

from amalgam_edge.exporters.quantization.activations import (
    Activation,
    add_observers,
    constant_products,
    merge_activations,
)
from tests.support.two_products import WEIGHTS, X, by_hand, model, run


def test_products_with_a_constant_matrix_are_found():
    made = model()
    found = constant_products(made.graph)
    assert [(p.node, p.source, p.weight, p.transposed) for p in found] == [
        ("first", "x", "q", False), ("second", "x", "k", False), ("gemm", "rows", "g", True),
    ]  # fmt: skip
    for product, name in zip(found, "qkg", strict=True):
        expected = WEIGHTS[name].T if name == "g" else WEIGHTS[name]
        np.testing.assert_allclose(product.matrix(made.graph), expected, rtol=1e-6)


def test_written_weights_are_read_and_multiplied():
    made = model()
    product = constant_products(made.graph)[2]
    product.write(made.graph, np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(product.matrix(made.graph), np.arange(12).reshape(4, 3))
    rows = X @ WEIGHTS["q"] + X @ WEIGHTS["k"]
    np.testing.assert_allclose(run(made)[0], rows.reshape(-1, 4) @ np.arange(12).reshape(4, 3) + 1, rtol=1e-4)


def test_observed_statistics_by_hand():
    made = model()
    names = add_observers(made.graph)
    wanted = [name for pair in names.values() for name in pair]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip(wanted, session.run(wanted, {"x": X.astype(np.float32)}), strict=True))
    rows = {"x": X.reshape(-1, 6), "rows": (X @ WEIGHTS["q"] + X @ WEIGHTS["k"]).reshape(-1, 4)}
    assert list(names) == ["x", "rows"]
    for name, (largest, gram) in names.items():
        np.testing.assert_allclose(found[largest], np.abs(rows[name]).max(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found[gram], rows[name].T @ rows[name], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(run(made)[0], by_hand(), rtol=1e-4, atol=1e-3)


def of(rows):
    return Activation(np.abs(rows).max(axis=0), rows.T @ rows)


def same(found, expected):
    np.testing.assert_allclose(found.largest, expected.largest)
    np.testing.assert_allclose(found.gram, expected.gram)


def test_activations_change_as_the_values_do():
    rows = np.random.default_rng(0).normal(size=(9, 4))
    same(merge_activations([of(rows[:2]), of(rows[2:])]), of(rows))
    same(of(rows).divide(np.array([1, 2, 4, 0.5])), of(rows / [1, 2, 4, 0.5]))
    same(of(rows).select(np.array([0, 3, 3, 1])), of(rows[:, [0, 3, 3, 1]]))


@pytest.mark.parametrize("shared", [False, True])
def test_the_graph_computes_what_its_docstring_says(shared):
    second = np.tanh(X) @ WEIGHTS["q"] if shared else X @ WEIGHTS["k"]
    expected = (X @ WEIGHTS["q"] + second).reshape(-1, 4) @ WEIGHTS["g"].T + 1
    np.testing.assert_allclose(run(model(shared))[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gemm_says_whether_its_matrix_is_transposed(transposed):
    made = model()
    gemm = next(node for node in made.graph.node if node.op_type == "Gemm")
    gemm.attribute[0].i = int(transposed)
    assert constant_products(made.graph)[-1].transposed is transposed

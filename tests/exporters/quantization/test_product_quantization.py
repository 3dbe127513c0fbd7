"""Product quantization of tables against the tables themselves."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization import product_quantization
from amalgam_edge.exporters.quantization.embeddings import quantize_head_matrices
from amalgam_edge.exporters.quantization.product_quantization import product_quantize, quantize_tables_by_product

RNG = np.random.default_rng(0)


def restore(codes, codebooks):
    return np.concatenate([codebooks[part][codes[:, part]] for part in range(len(codebooks))], axis=1)


def test_a_table_of_few_vectors_is_kept_exactly():
    kinds = RNG.normal(size=(50, 8)).astype(np.float32)
    table = kinds[RNG.integers(0, 50, 3000)]
    codes, codebooks = product_quantize(table)
    assert codes.shape == (3000, 2)
    assert codes.dtype == np.uint8
    assert codebooks.shape == (2, 256, 4)
    error = np.abs(restore(codes, codebooks) - table).max(axis=1)
    assert np.median(error) < 1e-6
    assert error.max() < np.abs(table).max()


def test_each_part_gets_its_nearest_code():
    table = RNG.normal(size=(1500, 8)).astype(np.float32)
    codes, codebooks = product_quantize(table)
    for row in range(0, 1500, 100):
        for part in range(2):
            distances = ((codebooks[part] - table[row, 4 * part : 4 * part + 4]) ** 2).sum(axis=1)
            assert distances[codes[row, part]] <= distances.min() + 1e-5
    # two bits a number leave at most a tenth of the variance of a Gaussian (rate-distortion: a sixteenth)
    assert ((restore(codes, codebooks) - table) ** 2).mean() < 0.15


def test_the_same_table_gives_the_same_codes():
    table = RNG.normal(size=(1200, 4)).astype(np.float32)
    for one, other in zip(product_quantize(table), product_quantize(table, seed=0), strict=True):
        np.testing.assert_array_equal(one, other)


def model(n_rows, width, *, head=False):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"], "look_up")]
    weights = {"table": RNG.normal(size=(n_rows, width)).astype(np.float32)}
    if head:
        weights["stack"] = RNG.normal(size=(2, width, 6)).astype(np.float32) * [[[1]], [[100]]]
        weights["stack"] = weights["stack"].astype(np.float32)
        nodes += [
            helper.make_node("Unsqueeze", ["x", "axis"], ["x4"], "unsqueeze"),
            helper.make_node("MatMul", ["x4", "stack"], ["out"], "by_head"),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("out" if head else "x", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), weights


def run(made, ids):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": ids})[0]


def test_the_graph_looks_up_what_was_quantized():
    made, weights = model(1100, 8)
    assert quantize_tables_by_product(made.graph) == 1
    ids = np.array([[0, 5, 1099], [7, 7, 7]])
    expected = restore(*product_quantize(weights["table"]))[ids]
    np.testing.assert_allclose(run(made, ids), expected, rtol=1e-6)
    assert "table" not in {tensor.name for tensor in made.graph.initializer}


@pytest.mark.parametrize(("n_rows", "width"), [(300, 8), (1023, 8), (1100, 6)])
def test_small_tables_and_odd_widths_stay(n_rows, width):
    made, weights = model(n_rows, width)
    assert quantize_tables_by_product(made.graph) == 0
    np.testing.assert_array_equal(run(made, np.array([[3]])), weights["table"][[[3]]])


def test_matrices_multiplied_head_by_head_are_stored_in_int8():
    made, weights = model(20, 8, head=True)
    assert quantize_head_matrices(made.graph) == 1
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert stored["stack_int8"].dtype == np.int8
    expected_scales = np.abs(weights["stack"]).max(axis=1) / 127  # one for each head and output
    np.testing.assert_allclose(stored["stack_scales"], expected_scales[:, None], rtol=1e-6)
    restored = stored["stack_int8"] * stored["stack_scales"]
    assert (np.abs(restored - weights["stack"]) <= stored["stack_scales"] * 0.501).all()
    ids = np.array([[1, 2, 3]])
    expected = weights["table"][ids].astype(np.float64)[:, None] @ restored.astype(np.float64)
    np.testing.assert_allclose(run(made, ids), expected, rtol=1e-4, atol=1e-3)


def test_a_table_of_1024_rows_is_quantized():
    """A codebook of 256 · 4 floats then takes no more room than it saves."""
    made, _ = model(1024, 8)
    assert quantize_tables_by_product(made.graph) == 1


def test_centroids_come_from_ten_rounds_on_at_most_8192_rows(monkeypatch):
    sizes = []
    nearest = product_quantization._nearest

    def counted(points, centroids):
        sizes.append(len(points))
        return nearest(points, centroids)

    monkeypatch.setattr(product_quantization, "_nearest", counted)
    product_quantize(RNG.normal(size=(9000, 4)).astype(np.float32))
    assert sizes == [8192] * 10 + [9000]


def test_a_column_of_zeros_by_head_stays_zero():
    made, _ = model(20, 8, head=True)
    stack = next(tensor for tensor in made.graph.initializer if tensor.name == "stack")
    weights = numpy_helper.to_array(stack).copy()
    weights[:, :, 2] = 0
    stack.CopyFrom(numpy_helper.from_array(weights, "stack"))
    with np.errstate(all="raise"):
        quantize_head_matrices(made.graph)
    answers = run(made, np.array([[1, 2, 3]]))
    assert np.isfinite(answers).all()
    assert not answers[..., 2].any()


def test_a_table_that_something_else_reads_stays():
    made, _ = model(1100, 8)
    made.graph.node.append(helper.make_node("Neg", ["table"], ["negative"], "negative"))
    assert quantize_tables_by_product(made.graph) == 0


@pytest.mark.parametrize("shape", [(1, 8, 6), (2, 8, 1)])
def test_constants_with_an_axis_of_one_entry_are_no_stack_of_matrices(shape):
    made, _ = model(20, 8, head=True)
    stack = next(tensor for tensor in made.graph.initializer if tensor.name == "stack")
    stack.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), "stack"))
    assert quantize_head_matrices(made.graph) == 0


def test_a_table_of_256_different_vectors_is_kept_exactly():
    """There is a centroid for each, if no vector is drawn twice as a start."""
    kinds = RNG.permutation(np.arange(256 * 4)).reshape(256, 4).astype(np.float32)
    np.testing.assert_array_equal(restore(*product_quantize(kinds)), kinds)


def test_fewer_vectors_than_centroids_are_coded_too():
    table = RNG.normal(size=(100, 4)).astype(np.float32)
    codes, codebooks = product_quantize(table)
    distances = ((codebooks[0][None] - table[:, None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances[np.arange(100), codes[:, 0]], distances.min(axis=1), atol=1e-5)

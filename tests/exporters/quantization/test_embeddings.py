"""int8 rows of embedding tables, on tables made by hand and on real architectures."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization.embeddings import quantize_embeddings
from tests.support import tiny

TABLES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(2, 6)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


def look_up(table, *, axis=0, more=(), dtype=TensorProto.FLOAT):
    """A model that looks ids up in a table; ``more`` are further nodes with an output each."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"], "look_up", axis=axis), *more]
    outputs = [helper.make_tensor_value_info(node.output[0], dtype, None) for node in nodes]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    graph = helper.make_graph(nodes, "g", [ids], outputs, [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model, ids):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.asarray(ids)})


def tensors(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@given(TABLES)
def test_each_entry_is_off_by_half_a_step_at_most(table):
    model = look_up(table)
    assert quantize_embeddings(model) == 1
    (rows,) = run(model, np.arange(len(table)))
    step = np.abs(table.astype(np.float64)).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows - table) <= step / 2 * (1 + 1e-4) + 1e-30).all()


def test_a_table_by_hand():
    table = np.array([[127.0, -63.4, 0.6], [0.0, 0.0, 0.0], [-0.254, 0.0014, 0.128]], dtype=np.float32)
    model = look_up(table)
    quantize_embeddings(model)
    expected = np.array([[127, -63, 1], [0, 0, 0], [-127, 1, 64]])
    found = tensors(model)
    assert "table" not in found
    (rows,) = [tensor for tensor in found.values() if tensor.dtype == np.int8]
    (scales,) = [tensor for tensor in found.values() if tensor.dtype == np.float32]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scales, [[1.0], [1.0], [0.002]], rtol=1e-6)
    (looked_up,) = run(model, [2, 0, 1, 0])
    np.testing.assert_allclose(looked_up, (rows * scales)[[2, 0, 1, 0]], rtol=1e-6)


def test_full_range_is_used():
    table = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32) * np.logspace(-6, 6, 50)[:, None]
    model = look_up(table.astype(np.float32))
    quantize_embeddings(model)
    (rows,) = [tensor for tensor in tensors(model).values() if tensor.dtype == np.int8]
    assert (np.abs(rows.astype(int)).max(axis=1) == 127).all()


def test_ids_of_any_shape_are_looked_up():
    table = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    model = look_up(table)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"]))
    quantize_embeddings(model)
    ids = np.array([[0, 8, 3], [4, 4, 1]])
    (rows,) = run(model, ids)
    assert rows.shape == (2, 3, 4)
    np.testing.assert_allclose(rows, table[ids], atol=np.abs(table).max() / 200)


@pytest.mark.parametrize(
    "more",
    [
        helper.make_node("Gather", ["table", "ids"], ["again"], "again"),
        helper.make_node("Transpose", ["table"], ["turned"], "turned", perm=[1, 0]),
        helper.make_node("MatMul", ["table", "table"], ["product"], "product"),
    ],
    ids=["two look-ups", "look-up and transpose", "look-up and product"],
)
def test_a_table_used_twice_is_left_alone(more):
    table = np.random.default_rng(2).normal(size=(5, 5)).astype(np.float32)
    model = look_up(table, more=[more])
    before = model.SerializeToString()
    assert quantize_embeddings(model) == 0
    assert model.SerializeToString() == before


def test_look_ups_of_columns_are_left_alone():
    model = look_up(np.eye(4, dtype=np.float32), axis=1)
    before = model.SerializeToString()
    assert quantize_embeddings(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("table", "dtype"),
    [
        (np.arange(12).reshape(4, 3), TensorProto.INT64),
        (np.arange(4, dtype=np.float32), TensorProto.FLOAT),
        (np.ones((2, 2, 2), dtype=np.float32), TensorProto.FLOAT),
        (np.ones((2, 2), dtype=np.float64), TensorProto.DOUBLE),
        (np.ones((4, 1), dtype=np.float32), TensorProto.FLOAT),
    ],
    ids=["integers", "a vector", "three axes", "float64", "single numbers"],
)
def test_tables_that_are_no_float_matrix_are_left_alone(table, dtype):
    model = look_up(table, dtype=dtype)
    assert quantize_embeddings(model) == 0
    np.testing.assert_array_equal(run(model, [1, 0])[0], table[[1, 0]])


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_word_tables_of_students_are_quantized(exports, architecture):
    exported = exports(architecture)
    model = onnx.load(exported.path)
    assert quantize_embeddings(model) >= 1
    vocabulary = exported.model.config.vocab_size
    word_tables = [t for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] == vocabulary and t.dims[1] > 1]
    assert [t.data_type for t in word_tables] == [TensorProto.INT8]
    onnx.checker.check_model(model)

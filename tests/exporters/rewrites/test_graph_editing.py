"""Finding and replacing nodes, on a chain made by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from amalgam_edge.exporters.rewrites.graph_editing import (
    GraphIndex,
    add_constant,
    attribute,
    other_input,
    replace_nodes,
)
from tests.support.graphs import initializers, make_graph, run_graph, value_info

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def chain():
    """out = tanh(table[ids] + row) · half, and tanh is an output too."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"], "look_up", axis=0),
        helper.make_node("Add", ["vectors", "row"], ["sum"], "add"),
        helper.make_node("Tanh", ["sum"], ["tanh"], "tanh"),
        helper.make_node("Mul", ["half", "tanh"], ["out"], "mul"),
    ]
    return make_graph(
        nodes,
        [value_info("ids", TensorProto.INT64, "n")],
        [value_info(name, TensorProto.FLOAT, "n", 3) for name in ("out", "tanh")],
        table=TABLE, row=np.ones(3, np.float32), half=np.float32(0.5),
    )  # fmt: skip


def test_producers_and_readers():
    index = GraphIndex(chain())
    assert index.producer("vectors").name == "look_up"
    assert index.producer("vectors", "MatMul") is None
    assert index.producer("vectors", "MatMul", "Gather").name == "look_up"
    assert index.producer("ids") is None
    assert [node.name for node in index.readers("sum")] == ["tanh"]
    assert index.readers("out") == []


def test_the_only_reader_of_a_value():
    index = GraphIndex(chain())
    assert index.only_reader("sum", "Tanh").name == "tanh"
    assert index.only_reader("sum", "Mul", "Tanh").name == "tanh"
    assert index.only_reader("sum", "Mul") is None
    assert index.only_reader("tanh", "Mul") is None  # an output of the graph is read outside of it
    assert index.only_reader("out", "Mul") is None


def test_a_value_with_two_readers_has_no_only_one():
    graph = chain()
    graph.node.append(helper.make_node("Neg", ["sum"], ["more"], "neg"))
    assert GraphIndex(graph).only_reader("sum", "Tanh") is None


def test_chains_follow_first_inputs_back_and_only_readers_forth():
    index = GraphIndex(chain())
    assert [node.name for node in index.chain_to("tanh", "Tanh", "Add", "Gather")] == ["tanh", "add", "look_up"]
    assert index.chain_to("tanh", "Tanh", "Gather") is None
    assert index.chain_to("out", "Mul", "Tanh") is None  # tanh is the second input
    assert [node.name for node in index.chain_from("vectors", "Add", "Tanh")] == ["add", "tanh"]
    assert index.chain_from("vectors", "Tanh") is None
    assert index.chain_from("vectors", "Add", "Tanh", "Mul") is None


def test_constants():
    index = GraphIndex(chain())
    np.testing.assert_array_equal(index.constant("table"), TABLE)
    assert index.constant("sum") is None
    assert index.scalar("half") == 0.5
    assert index.scalar("table") is None
    assert index.scalar("sum") is None


@pytest.mark.parametrize(("value", "variable", "constant"), [("sum", "vectors", np.ones(3)), ("out", "tanh", 0.5)])
def test_the_constant_input_is_told_from_the_variable_one_in_either_order(value, variable, constant):
    index = GraphIndex(chain())
    name, content = index.split_constant(index.producer(value))
    assert name == variable
    np.testing.assert_array_equal(content, constant)


def test_two_variable_inputs_have_no_constant():
    index = GraphIndex(chain())
    assert index.split_constant(helper.make_node("Add", ["sum", "tanh"], ["more"])) is None


def test_attributes_and_the_other_input():
    node = helper.make_node("Transpose", ["a", "b"], ["c"], perm=[1, 0])
    assert attribute(node, "perm", []) == [1, 0]
    assert attribute(node, "axis", 7) == 7
    assert (other_input(node, "a"), other_input(node, "b")) == ("b", "a")


def test_a_name_that_is_taken_is_numbered():
    graph = chain()
    assert add_constant(graph, np.zeros(1), "fresh") == "fresh"
    assert add_constant(graph, np.zeros(1), "table") == "table_1"
    assert add_constant(graph, np.zeros(1), "table") == "table_2"
    np.testing.assert_array_equal(initializers(graph)["table"], TABLE)


def test_nodes_and_constants_that_no_output_needs_any_more_are_removed():
    graph = chain()
    del graph.output[1:]
    replace_nodes(graph, {"tanh": [helper.make_node("Neg", ["vectors"], ["tanh"], "neg")]})
    assert [node.name for node in graph.node] == ["look_up", "neg", "mul"]
    assert list(initializers(graph)) == ["table", "half"]
    np.testing.assert_allclose(run_graph(graph, ids=np.array([3])), -0.5 * TABLE[[3]], rtol=1e-6)

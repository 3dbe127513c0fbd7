"""Rows that every token gets, on embeddings made by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from amalgam_edge.exporters.rewrites.constant_embeddings import fold_constant_embeddings
from tests.support.graphs import initializers, make_graph, run_graph, value_info

RNG = np.random.default_rng(0)
WORDS, TYPES = (RNG.normal(size=shape).astype(np.float32) for shape in ((9, 4), (2, 4)))
IDS = np.array([[1, 2, 8]])


def embeddings(type_buffer, *, vectors_read_twice=False, words_read_twice=False):
    """2 · (words[ids] + types[type ids]), with type ids gathered from a buffer, as tracing leaves them."""
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["size"], "size"),
        helper.make_node("Expand", ["type_buffer", "size"], ["type_ids"], "expand"),
        helper.make_node("Gather", ["words", "input_ids"], ["vectors"], "look_up"),
        helper.make_node("Gather", ["types", "type_ids"], ["of_types"], "look_up_types"),
        helper.make_node("Add", ["vectors", "of_types"], ["sum"], "add"),
        helper.make_node("Add", ["sum", "vectors" if vectors_read_twice else "sum"], ["out"], "out"),
    ]
    outputs = [value_info("out", TensorProto.FLOAT, "n", "t", 4)]
    if words_read_twice:
        nodes.append(helper.make_node("Neg", ["words"], ["negative"], "negative"))
        outputs.append(value_info("negative", TensorProto.FLOAT, 9, 4))
    inputs = [value_info("input_ids", TensorProto.INT64, "n", "t")]
    return make_graph(nodes, inputs, outputs, words=WORDS, types=TYPES, type_buffer=np.array(type_buffer))


@pytest.mark.parametrize("number", [0, 1])
def test_a_row_that_every_token_gets_is_added_to_the_token_table(number):
    graph = embeddings([number, number, number])
    assert fold_constant_embeddings(graph) == 1
    assert [node.op_type for node in graph.node] == ["Gather", "Identity", "Add"]
    np.testing.assert_array_equal(initializers(graph)["words"], WORDS + TYPES[number])
    assert list(initializers(graph)) == ["words"]
    np.testing.assert_allclose(run_graph(graph, input_ids=IDS), 2 * (WORDS[IDS] + TYPES[number]), rtol=1e-6)


@pytest.mark.parametrize(
    ("type_buffer", "options"),
    [([0, 1, 0], {}), ([0, 0, 0], {"vectors_read_twice": True}), ([0, 0, 0], {"words_read_twice": True})],
    ids=["rows differ", "token vectors are read elsewhere", "token table is read elsewhere"],
)
def test_other_embeddings_stay_as_they_are(type_buffer, options):
    graph = embeddings(type_buffer, **options)
    before = graph.SerializeToString()
    assert fold_constant_embeddings(graph) == 0
    assert graph.SerializeToString() == before

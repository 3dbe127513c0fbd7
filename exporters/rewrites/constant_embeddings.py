"""Fold an embedding that every token gets into the table of token embeddings.

Pattern: token_table[input_ids] + other_table[ids], where all entries of ``ids`` are the same number. BERT adds row 0 of
its token-type table to every token, since a classifier never sees a second sentence; tracing leaves the look-up in the
graph, with ids gathered from a buffer of zeros.
Replacement: the row is added to each row of the token table, once, at export.
Faster by one look-up and one sum for each token.
Exact: the sum of two float32 numbers is the same at export as at run time.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, numpy_helper

from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, attribute, other_input, replace_nodes

# Operations that copy entries of their first input: if all entries of that are equal, so are those of the output.
_COPYING_OPERATIONS = (
    *("Cast", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze"),
)


def fold_constant_embeddings(graph: onnx.GraphProto) -> int:
    """Add a row that every token gets to the token table, in place, where only the sum of both is read.

    Returns:
        How many look-ups were removed.
    """
    index = GraphIndex(graph)
    constant_ids = _constant_values(graph)
    folded = 0
    for node in list(graph.node):
        table = index.constant(node.input[0]) if _is_row_lookup(node) else None
        if table is None or table.ndim != 2 or node.input[1] not in constant_ids:
            continue
        total = index.only_reader(node.output[0], "Add")
        tokens = index.producer(other_input(total, node.output[0]), "Gather") if total else None
        if total is None or tokens is None or not _is_unshared_token_lookup(index, tokens):
            continue
        weights = next(tensor for tensor in graph.initializer if tensor.name == tokens.input[0])
        summed = numpy_helper.to_array(weights) + table[int(constant_ids[node.input[1]])]
        weights.CopyFrom(numpy_helper.from_array(summed.astype(table.dtype), weights.name))
        copy = onnx.helper.make_node("Identity", [tokens.output[0]], [total.output[0]], total.name)
        replace_nodes(graph, {total.output[0]: [copy]})
        index = GraphIndex(graph)
        folded += 1
    return folded


def _constant_values(graph: onnx.GraphProto) -> dict[str, float]:
    """The values whose entries are all the same number, and that number."""
    constant: dict[str, float] = {}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.INT64 and value.size and (value == value.flat[0]).all():
            constant[tensor.name] = float(value.flat[0])
    for node in graph.node:
        if node.op_type in _COPYING_OPERATIONS and node.input[0] in constant:
            constant[node.output[0]] = constant[node.input[0]]
    return constant


def _is_row_lookup(node: NodeProto) -> bool:
    return node.op_type == "Gather" and attribute(node, "axis", 0) == 0


def _is_unshared_token_lookup(index: GraphIndex, node: NodeProto) -> bool:
    """Whether a node looks token ids up in a table that no other node reads, and its output is read once."""
    table = index.constant(node.input[0])
    is_table = _is_row_lookup(node) and table is not None and table.ndim == 2
    read_once = len(index.readers(node.input[0])) == 1 and len(index.readers(node.output[0])) == 1
    return is_table and read_once and node.input[1] == "input_ids"

"""Rows of an embedding table that every token gets become part of another table. Exact.

A classifier that is never told of a second sentence adds row 0 of its token-type table to every token. Tracing leaves
the look-up standing, with ids that are gathered from a buffer of zeros.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, numpy_helper

from amalgam_edge.exporters.rewrites.graphs import GraphIndex, attribute, other_input, replace_nodes

# Operations that copy entries of their first input: of a tensor whose entries are all alike they make another.
_COPIES = (
    *("Cast", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze"),
)


def fold_constant_rows(graph: onnx.GraphProto) -> int:
    """Add a row that every token is given to the table of tokens, in place, where a sum of both is all that is read.

    Returns:
        How many look-ups went.
    """
    index = GraphIndex(graph)
    alike = _entries_alike(graph, index)
    folded = 0
    for node in list(graph.node):
        table = index.constant(node.input[0]) if _is_look_up(node) else None
        if table is None or table.ndim != 2 or node.input[1] not in alike:
            continue
        total = index.only_reader(node.output[0], "Add")
        other = other_input(total, node.output[0]) if total else None
        tokens = index.producer(other, "Gather") if other else None
        if total is None or tokens is None or not _only_table(index, tokens):
            continue
        weights = next(tensor for tensor in graph.initializer if tensor.name == tokens.input[0])
        summed = numpy_helper.to_array(weights) + table[int(alike[node.input[1]])]
        weights.CopyFrom(numpy_helper.from_array(summed.astype(table.dtype), weights.name))
        copy = onnx.helper.make_node("Identity", [tokens.output[0]], [total.output[0]], total.name)
        replace_nodes(graph, {total.output[0]: [copy]})
        index = GraphIndex(graph)
        folded += 1
    return folded


def _entries_alike(graph: onnx.GraphProto, index: GraphIndex) -> dict[str, float]:
    """Values whose entries are all one number, and that number."""
    alike: dict[str, float] = {}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.INT64 and value.size and (value == value.flat[0]).all():
            alike[tensor.name] = float(value.flat[0])
    for node in graph.node:
        if node.op_type in _COPIES and node.input[0] in alike:
            alike[node.output[0]] = alike[node.input[0]]
    return alike


def _is_look_up(node: NodeProto) -> bool:
    return node.op_type == "Gather" and attribute(node, "axis", 0) == 0


def _only_table(index: GraphIndex, node: NodeProto) -> bool:
    """The node looks token ids up in a table that nobody else reads, and its rows are read once."""
    table = index.constant(node.input[0])
    is_table = _is_look_up(node) and table is not None and table.ndim == 2
    once = len(index.readers(node.input[0])) == 1 and len(index.readers(node.output[0])) == 1
    return is_table and once and node.input[1] == "input_ids"

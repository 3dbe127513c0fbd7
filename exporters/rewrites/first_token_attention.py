"""Attention of the first token without keys and values of all others. Exact.

Where one query reads all tokens, the products can be taken in another order. With x the tokens, W the weights of a
head and q its query:

    scores  q · (x_j W_k + b_k) = (q W_kᵀ) · x_j + const        context  Σ a_j (x_j W_v + b_v) = (Σ a_j x_j) W_v + b_v

since softmax does not see the constant and its weights a_j add up to 1. Two products of a row with W, once a text, take
the place of two of every token with W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper

from amalgam_edge.exporters.rewrites.graphs import GraphIndex, add_constant, attribute, replace_nodes


@dataclass(frozen=True)
class _Heads:
    """x W + b, seen head by head.

    Attributes:
        source: name of x.
        weight: ``(width, n_heads · head)``.
        bias: ``(n_heads · head,)``.
        order: how ``(text, token, head, unit)`` is permuted.
    """

    source: str
    weight: np.ndarray
    bias: np.ndarray
    order: tuple[int, ...]


def shorten_first_token_attention(graph: onnx.GraphProto) -> int:
    """Reorder the products of each attention that has a single query, in place.

    Returns:
        How many there were.
    """
    shortened = 0
    for node in list(graph.node):
        index = GraphIndex(graph)
        found = _match(index, node) if node.op_type == "MatMul" else None
        if found is not None:
            replace_nodes(graph, _replacements(graph, index, *found))
            shortened += 1
    return shortened


def _match(index: GraphIndex, scores: NodeProto) -> tuple[NodeProto, NodeProto, _Heads, _Heads, int] | None:
    """Scores, context, keys, values and the width of a head, if the node makes the scores of a single query."""
    keys = _heads(index, scores.input[1])
    head = _single_query(index, scores.input[0])
    context = _context(index, scores)
    values = _heads(index, context.input[1]) if context is not None else None
    if keys is None or values is None or context is None or head is None:
        return None
    fits = keys.source == values.source and keys.order == (0, 2, 3, 1) and values.order == (0, 2, 1, 3)
    return (scores, context, keys, values, head) if fits else None


def _single_query(index: GraphIndex, name: str) -> int | None:
    """The width of a head if the value is ``(n_texts, n_heads, 1, head)``."""
    turned = index.producer(name, "Transpose")
    shaped = index.producer(turned.input[0], "Reshape") if turned is not None else None
    shape = index.constant(shaped.input[1]) if shaped is not None else None
    if turned is None or shape is None or attribute(turned, "perm", []) != [0, 2, 1, 3]:
        return None
    return int(shape[3]) if shape.shape == (4,) and shape[1] == 1 else None


def _context(index: GraphIndex, scores: NodeProto) -> NodeProto | None:
    """The product of values with the softmax of the scores, between which they are scaled and masked alone."""
    node: NodeProto | None = scores
    while node is not None and node.op_type != "Softmax":
        reader = index.only_reader(node.output[0], "Mul", "Div", "Add", "Softmax")
        if reader is not None and reader.op_type in ("Mul", "Div"):
            scaled = index.with_constant(reader)
            reader = reader if scaled is not None and scaled[1].size == 1 else None
        node = reader
    if node is None or attribute(node, "axis", -1) not in (-1, 3):
        return None
    context = index.only_reader(node.output[0], "MatMul")
    return context if context is not None and context.input[0] == node.output[0] else None


def _heads(index: GraphIndex, name: str) -> _Heads | None:
    turned = index.producer(name, "Transpose")
    shaped = index.producer(turned.input[0], "Reshape") if turned is not None else None
    if turned is None or shaped is None:
        return None
    order = attribute(turned, "perm", [])
    added = index.producer(shaped.input[0], "Add")
    biased = index.with_constant(added) if added is not None else None
    product = index.producer(biased[0] if biased is not None else shaped.input[0], "MatMul")
    weight = index.constant(product.input[1]) if product is not None else None
    if product is None or weight is None or weight.ndim != 2 or isinstance(order, int):
        return None
    bias = np.zeros(weight.shape[1], weight.dtype) if biased is None else biased[1]
    return _Heads(product.input[0], weight, bias, tuple(order)) if bias.shape == weight.shape[1:] else None


def _replacements(
    graph: onnx.GraphProto,
    index: GraphIndex,
    scores: NodeProto,
    context: NodeProto,
    keys: _Heads,
    values: _Heads,
    head: int,
) -> dict[str, list[NodeProto]]:
    """The two products again, by way of ``(n_heads, n_texts, …)``."""
    width, n_units = keys.weight.shape
    by_head = (width, n_units // head, head)
    w_k = add_constant(graph, np.ascontiguousarray(keys.weight.reshape(by_head).transpose(1, 2, 0)), "keys_by_head")
    w_v = add_constant(graph, np.ascontiguousarray(values.weight.reshape(by_head).transpose(1, 0, 2)), "values_by_head")
    b_v = add_constant(graph, values.bias.reshape(1, n_units // head, 1, head), "values_bias")
    flat = add_constant(graph, np.array([-1, n_units // head, head], np.int64), "query_shape")
    row = add_constant(graph, np.array([2], np.int64), "query_axis")
    x, s, c = keys.source, scores.output[0], context.output[0]
    query, weights = scores.input[0], context.input[0]

    def node(op_type: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
        return helper.make_node(op_type, inputs, [output], f"node_{output}", **attributes)

    return {
        s: [
            node("Reshape", [query, flat], f"{s}_query"),
            node("Transpose", [f"{s}_query"], f"{s}_turned", perm=[1, 0, 2]),
            node("MatMul", [f"{s}_turned", w_k], f"{s}_reach"),
            node("Transpose", [f"{s}_reach"], f"{s}_by_text", perm=[1, 0, 2]),
            node("Transpose", [x], f"{s}_tokens", perm=[0, 2, 1]),
            node("MatMul", [f"{s}_by_text", f"{s}_tokens"], f"{s}_flat"),
            node("Unsqueeze", [f"{s}_flat", row], s),
        ],
        c: [
            node("Squeeze", [weights, row], f"{c}_weights"),
            node("MatMul", [f"{c}_weights", x], f"{c}_mean"),
            node("Transpose", [f"{c}_mean"], f"{c}_turned", perm=[1, 0, 2]),
            node("MatMul", [f"{c}_turned", w_v], f"{c}_by_head"),
            node("Transpose", [f"{c}_by_head"], f"{c}_by_text", perm=[1, 0, 2]),
            node("Unsqueeze", [f"{c}_by_text", row], f"{c}_unbiased"),
            node("Add", [f"{c}_unbiased", b_v], c),
        ],
    }

"""Compute the attention of a single query without the keys and values of all tokens.

Pattern: softmax(q Kᵀ · scale + mask) V with one query per text, where K and V are linear in the same tokens x. A
classifier that reads only the first token leaves such an attention in its last layer.
Replacement: the products are taken in another order. With W_k, b_k, W_v, b_v the weights of a head and a_j the
softmax:

    scores     q · (x_j W_k + b_k) = (q W_kᵀ) · x_j + constant
    context    Σ a_j (x_j W_v + b_v) = (Σ a_j x_j) W_v + b_v

Faster: two products of one row per text with W take the place of two products of every token with W.
Exact: softmax does not change when a constant is added to all scores, and its weights a_j add up to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper

from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, add_constant, attribute, replace_nodes

# How keys and values, (text, token, head, unit) after the Reshape, are transposed before they are multiplied.
_KEY_ORDER, _QUERY_AND_VALUE_ORDER = (0, 2, 3, 1), (0, 2, 1, 3)


@dataclass(frozen=True)
class _Projection:
    """x W + b cut into heads: the keys or the values of an attention.

    Attributes:
        source: The name of x.
        weight: W, ``(width, n_heads · head_width)``.
        bias: b, ``(n_heads · head_width,)``.
        order: How the axes ``(text, token, head, unit)`` are transposed.
    """

    source: str
    weight: np.ndarray
    bias: np.ndarray
    order: tuple[int, ...]


@dataclass(frozen=True)
class _SingleQueryAttention:
    """An attention with one query per text, as it was found in a graph.

    Attributes:
        scores: The product of query and keys.
        context: The product of attention weights and values.
        keys: The keys' projection.
        values: The values' projection, of the same tokens.
        head_width: How many units each head has.
    """

    scores: NodeProto
    context: NodeProto
    keys: _Projection
    values: _Projection
    head_width: int


def shorten_first_token_attention(graph: onnx.GraphProto) -> int:
    """Reorder the products of each attention that has a single query, in place.

    Returns:
        How many attentions were reordered.
    """
    shortened = 0
    for node in list(graph.node):
        index = GraphIndex(graph)
        attention = _match(index, node) if node.op_type == "MatMul" else None
        if attention is not None:
            replace_nodes(graph, _reordered_products(graph, attention))
            shortened += 1
    return shortened


def _match(index: GraphIndex, scores: NodeProto) -> _SingleQueryAttention | None:
    """The attention whose scores the node computes, if it has a single query; None for any other node."""
    keys = _projection(index, scores.input[1])
    head_width = _single_query_head_width(index, scores.input[0])
    context = _context_product(index, scores)
    values = _projection(index, context.input[1]) if context is not None else None
    if keys is None or values is None or context is None or head_width is None:
        return None
    if keys.source != values.source or keys.order != _KEY_ORDER or values.order != _QUERY_AND_VALUE_ORDER:
        return None
    return _SingleQueryAttention(scores, context, keys, values, head_width)


def _single_query_head_width(index: GraphIndex, query: str) -> int | None:
    """The width of a head if the value has the shape ``(n_texts, n_heads, 1, head_width)``."""
    chain = index.chain_to(query, "Transpose", "Reshape")
    if chain is None:
        return None
    transpose, reshape = chain
    shape = index.constant(reshape.input[1])
    if shape is None or attribute(transpose, "perm", []) != list(_QUERY_AND_VALUE_ORDER):
        return None
    return int(shape[3]) if shape.shape == (4,) and shape[1] == 1 else None


def _context_product(index: GraphIndex, scores: NodeProto) -> NodeProto | None:
    """The product of values with the softmax of the scores, if these are only scaled and masked in between."""
    node: NodeProto | None = scores
    while node is not None and node.op_type != "Softmax":
        reader = index.only_reader(node.output[0], "Mul", "Div", "Add", "Softmax")
        if reader is not None and reader.op_type in ("Mul", "Div"):
            scaled = index.split_constant(reader)
            reader = reader if scaled is not None and scaled[1].size == 1 else None
        node = reader
    if node is None or attribute(node, "axis", -1) not in (-1, 3):
        return None
    context = index.only_reader(node.output[0], "MatMul")
    return context if context is not None and context.input[0] == node.output[0] else None


def _projection(index: GraphIndex, name: str) -> _Projection | None:
    """The linear map, with or without a bias, whose output is cut into heads and transposed to give this value."""
    chain = index.chain_to(name, "Transpose", "Reshape")
    if chain is None:
        return None
    transpose, reshape = chain
    order = attribute(transpose, "perm", [])
    added = index.producer(reshape.input[0], "Add")
    biased = index.split_constant(added) if added is not None else None
    product = index.producer(biased[0] if biased is not None else reshape.input[0], "MatMul")
    weight = index.constant(product.input[1]) if product is not None else None
    if product is None or weight is None or weight.ndim != 2 or isinstance(order, int):
        return None
    bias = np.zeros(weight.shape[1], weight.dtype) if biased is None else biased[1]
    return _Projection(product.input[0], weight, bias, tuple(order)) if bias.shape == weight.shape[1:] else None


def _reordered_products(graph: onnx.GraphProto, attention: _SingleQueryAttention) -> dict[str, list[NodeProto]]:
    """The nodes that compute scores and context in the other order; matrices are stored head by head."""
    keys, values, head_width = attention.keys, attention.values, attention.head_width
    width, n_units = keys.weight.shape
    n_heads = n_units // head_width
    by_head = (width, n_heads, head_width)
    w_k = add_constant(graph, np.ascontiguousarray(keys.weight.reshape(by_head).transpose(1, 2, 0)), "keys_by_head")
    w_v = add_constant(graph, np.ascontiguousarray(values.weight.reshape(by_head).transpose(1, 0, 2)), "values_by_head")
    b_v = add_constant(graph, values.bias.reshape(1, n_heads, 1, head_width), "values_bias")
    query_shape = add_constant(graph, np.array([-1, n_heads, head_width], np.int64), "query_shape")
    query_axis = add_constant(graph, np.array([2], np.int64), "query_axis")
    x = keys.source
    scores, context = attention.scores.output[0], attention.context.output[0]
    query, weights = attention.scores.input[0], attention.context.input[0]

    def node(op_type: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
        return helper.make_node(op_type, inputs, [output], f"node_{output}", **attributes)

    return {
        scores: [
            node("Reshape", [query, query_shape], f"{scores}_query"),
            node("Transpose", [f"{scores}_query"], f"{scores}_turned", perm=[1, 0, 2]),
            node("MatMul", [f"{scores}_turned", w_k], f"{scores}_reach"),
            node("Transpose", [f"{scores}_reach"], f"{scores}_by_text", perm=[1, 0, 2]),
            node("Transpose", [x], f"{scores}_tokens", perm=[0, 2, 1]),
            node("MatMul", [f"{scores}_by_text", f"{scores}_tokens"], f"{scores}_flat"),
            node("Unsqueeze", [f"{scores}_flat", query_axis], scores),
        ],
        context: [
            node("Squeeze", [weights, query_axis], f"{context}_weights"),
            node("MatMul", [f"{context}_weights", x], f"{context}_mean"),
            node("Transpose", [f"{context}_mean"], f"{context}_turned", perm=[1, 0, 2]),
            node("MatMul", [f"{context}_turned", w_v], f"{context}_by_head"),
            node("Transpose", [f"{context}_by_head"], f"{context}_by_text", perm=[1, 0, 2]),
            node("Unsqueeze", [f"{context}_by_text", query_axis], f"{context}_unbiased"),
            node("Add", [f"{context}_unbiased", b_v], context),
        ],
    }

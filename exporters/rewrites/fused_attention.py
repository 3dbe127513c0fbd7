"""Attention as the one kernel that ONNX Runtime has for it, ``com.microsoft.MultiHeadAttention``.

ONNX Runtime's own fusion does not know the shape in which attention is traced. The operator is one of its own: a model
that holds it runs wherever ONNX Runtime does, on any CPU and in browsers, but not elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper

from amalgam_edge.exporters.rewrites.graphs import GraphIndex, attribute, replace_nodes
from amalgam_edge.exporters.rewrites.plain_mask import PLAIN_MASK

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class _Attention:
    """Where an attention begins and ends.

    Attributes:
        inputs: query, key and value, each ``(n_texts, n_tokens, width)``.
        output: of the same shape.
        n_heads: they are cut into.
        scale: of the scores.
    """

    inputs: tuple[str, str, str]
    output: str
    n_heads: int
    scale: float


def fuse_attention(model: onnx.ModelProto) -> int:
    """Replace each attention that adds nothing but the plain mask to its scores, in place.

    Returns:
        How many there were.
    """
    graph = model.graph
    index = GraphIndex(graph)
    found = [fused for node in graph.node if node.op_type == "Softmax" and (fused := _match(index, node)) is not None]
    if not found:
        return 0
    mask = helper.make_node("Cast", ["attention_mask"], ["key_padding_mask"], "key_padding_mask", to=TensorProto.INT32)
    replace_nodes(graph, {attention.output: [_fused(attention)] for attention in found})
    graph.node.insert(0, mask)
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return len(found)


def _fused(attention: _Attention) -> NodeProto:
    return helper.make_node(
        "MultiHeadAttention",
        [*attention.inputs, "", "key_padding_mask"],
        [attention.output],
        f"node_{attention.output}",
        domain=DOMAIN,
        num_heads=attention.n_heads,
        scale=attention.scale,
    )


def _match(index: GraphIndex, softmax: NodeProto) -> _Attention | None:
    masked = index.producer(softmax.input[0], "Add")
    scaled = index.producer(masked.input[0], "Mul") if masked is not None and masked.input[1] == PLAIN_MASK else None
    scale = index.with_constant(scaled) if scaled is not None else None
    scores = index.producer(scale[0], "MatMul") if scale is not None and scale[1].size == 1 else None
    context = index.only_reader(softmax.output[0], "MatMul")
    turned = index.only_reader(context.output[0], "Transpose") if context is not None else None
    output = index.only_reader(turned.output[0], "Reshape") if turned is not None else None
    if scores is None or scale is None or context is None or turned is None or output is None:
        return None
    if context.input[0] != softmax.output[0] or attribute(turned, "perm", []) != [0, 2, 1, 3]:
        return None
    query = _by_head(index, scores.input[0], [0, 2, 1, 3])
    key = _by_head(index, scores.input[1], [0, 2, 3, 1])
    value = _by_head(index, context.input[1], [0, 2, 1, 3])
    n_heads = _n_heads(index, scores.input[0])
    if query is None or key is None or value is None or n_heads is None:
        return None
    return _Attention((query, key, value), output.output[0], n_heads, float(scale[1].item()))


def _by_head(index: GraphIndex, name: str, order: list[int]) -> str | None:
    """The ``(n_texts, n_tokens, width)`` that was cut into heads and turned in this order."""
    turned = index.producer(name, "Transpose")
    shaped = index.producer(turned.input[0], "Reshape") if turned is not None else None
    if turned is None or shaped is None or attribute(turned, "perm", []) != order:
        return None
    return shaped.input[0]


def _n_heads(index: GraphIndex, query: str) -> int | None:
    """How many heads of a known width the query's bias holds."""
    turned = index.producer(query, "Transpose")
    shaped = index.producer(turned.input[0], "Reshape") if turned is not None else None
    shape = index.producer(shaped.input[1], "Concat") if shaped is not None else None
    added = index.producer(shaped.input[0], "Add") if shaped is not None else None
    biased = index.with_constant(added) if added is not None else None
    if shape is None or biased is None or len(shape.input) != 4:
        return None
    head = index.scalar(shape.input[3])
    return int(biased[1].size // head) if head else None

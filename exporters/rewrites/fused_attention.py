"""Write attention as ONNX Runtime's own operator, ``com.microsoft.MultiHeadAttention``.

Pattern: softmax(Q Kᵀ · scale + padding mask) V, cut into heads by Reshape and Transpose. ONNX Runtime's own fusion does
not recognise attention as the exporter traces it.
Replacement: one MultiHeadAttention node, which reads queries, keys and values before they are cut into heads, and the
attention mask.
Faster because scores and attention weights never leave the kernel, and nothing is transposed in memory.
Exact up to the order of sums: the operator is defined as the same formula.
The operator is not part of ONNX: a model that holds it runs wherever ONNX Runtime does, on any CPU and in browsers, but
not in every other runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper

from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, attribute, replace_nodes
from amalgam_edge.exporters.rewrites.padding_mask import PADDING_MASK

DOMAIN = "com.microsoft"

# How queries, values and context are transposed from (text, token, head, unit), and how keys are.
_HEADS_FIRST, _HEADS_FIRST_TRANSPOSED = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True)
class _Attention:
    """Where an attention begins and ends in a graph.

    Attributes:
        inputs: The names of queries, keys and values, each ``(n_texts, n_tokens, width)``.
        output: The name of the context, of the same shape.
        n_heads: The number of heads.
        scale: The factor of the scores.
    """

    inputs: tuple[str, str, str]
    output: str
    n_heads: int
    scale: float


def fuse_attention(model: onnx.ModelProto) -> int:
    """Replace each attention that adds nothing but the padding mask to its scores, in place.

    Returns:
        How many attentions were replaced.
    """
    graph = model.graph
    index = GraphIndex(graph)
    matches = [_match(index, node) for node in graph.node if node.op_type == "Softmax"]
    found = [attention for attention in matches if attention is not None]
    if not found:
        return 0
    mask = helper.make_node("Cast", ["attention_mask"], ["key_padding_mask"], "key_padding_mask", to=TensorProto.INT32)
    replace_nodes(graph, {attention.output: [_fused_node(attention)] for attention in found})
    graph.node.insert(0, mask)
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return len(found)


def _fused_node(attention: _Attention) -> NodeProto:
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
    """The attention whose weights the softmax computes, if it has the pattern."""
    scores_and_scale = _scores_and_scale(index, softmax)
    context_and_output = _context_and_output(index, softmax)
    if scores_and_scale is None or context_and_output is None:
        return None
    (scores, scale), (context, output) = scores_and_scale, context_and_output
    query = _before_heads(index, scores.input[0], _HEADS_FIRST)
    key = _before_heads(index, scores.input[1], _HEADS_FIRST_TRANSPOSED)
    value = _before_heads(index, context.input[1], _HEADS_FIRST)
    n_heads = _n_heads(index, scores.input[0])
    if query is None or key is None or value is None or n_heads is None:
        return None
    return _Attention((query, key, value), output.output[0], n_heads, scale)


def _scores_and_scale(index: GraphIndex, softmax: NodeProto) -> tuple[NodeProto, float] | None:
    """The product of queries and keys, and its factor, if only the padding mask is added before the softmax."""
    chain = index.chain_to(softmax.input[0], "Add", "Mul")
    if chain is None or chain[0].input[1] != PADDING_MASK:
        return None
    scaled = index.split_constant(chain[1])
    scores = index.producer(scaled[0], "MatMul") if scaled is not None and scaled[1].size == 1 else None
    return (scores, float(scaled[1].item())) if scores is not None and scaled is not None else None


def _context_and_output(index: GraphIndex, softmax: NodeProto) -> tuple[NodeProto, NodeProto] | None:
    """The product of attention weights and values, and the Reshape that puts its heads together again."""
    chain = index.chain_from(softmax.output[0], "MatMul", "Transpose", "Reshape")
    if chain is None:
        return None
    context, transpose, output = chain
    fits = context.input[0] == softmax.output[0] and attribute(transpose, "perm", []) == _HEADS_FIRST
    return (context, output) if fits else None


def _before_heads(index: GraphIndex, name: str, order: list[int]) -> str | None:
    """The value ``(n_texts, n_tokens, width)`` that was cut into heads and transposed in this order."""
    chain = index.chain_to(name, "Transpose", "Reshape")
    if chain is None or attribute(chain[0], "perm", []) != order:
        return None
    return chain[1].input[0]


def _n_heads(index: GraphIndex, query: str) -> int | None:
    """The number of heads: the width of the query's bias over the width of a head, which the Reshape names."""
    chain = index.chain_to(query, "Transpose", "Reshape")
    if chain is None:
        return None
    reshape = chain[1]
    shape = index.producer(reshape.input[1], "Concat")
    added = index.producer(reshape.input[0], "Add")
    biased = index.split_constant(added) if added is not None else None
    if shape is None or biased is None or len(shape.input) != 4:
        return None
    head_width = index.scalar(shape.input[3])
    return int(biased[1].size // head_width) if head_width else None

"""Write a graph so that ONNX Runtime fuses the operations that it should, and leaves alone those that it should not.

ONNX Runtime looks for fixed patterns of nodes and replaces each by one kernel. On CPUs its fused GELU makes a forward
run 4 % faster, and its SkipLayerNormalization 7 to 9 % slower than an addition and a LayerNormalization, so that the
graph is written to get the one and not the other.
"""

from __future__ import annotations

import onnx

from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, other_input


def reorder_gelu(graph: onnx.GraphProto) -> int:
    """Reorder the two products of each GELU so that ONNX Runtime recognises it, in place.

    Pattern: x · (½ · (1 + erf(x / √2))), as the exporter writes it.
    Replacement: (x · (1 + erf(x / √2))) · ½, which ONNX Runtime fuses, with the bias before it, into BiasGelu.
    Exact: a product with ½ changes only the exponent of a floating-point number.

    Returns:
        How many GELUs were reordered.
    """
    index = GraphIndex(graph)
    reordered = 0
    for node in graph.node:
        chain = index.chain_from(node.output[0], "Add", "Mul", "Mul") if node.op_type == "Erf" else None
        if chain is None:
            continue
        added, halved, product = chain
        half, x = other_input(halved, added.output[0]), other_input(product, halved.output[0])
        if index.scalar(half) != 0.5:
            continue
        halved.input[:] = [x, added.output[0]]
        product.input[:] = [halved.output[0], half]
        reordered += 1
    return reordered


def prevent_skip_layer_norm_fusion(graph: onnx.GraphProto) -> int:
    """Keep ONNX Runtime from fusing residual additions with the LayerNormalization behind them, in place.

    Pattern: an ``Add`` whose sum a LayerNormalization reads.
    Replacement: a ``Sum`` of the same two inputs, which is no part of ONNX Runtime's pattern.
    Exact: both operations add two numbers.

    ONNX Runtime fuses the pattern only where the file records shapes, as its quantizer does.

    Returns:
        How many additions were replaced.
    """
    index = GraphIndex(graph)
    replaced = 0
    for node in graph.node:
        added = index.producer(node.input[0], "Add") if node.op_type == "LayerNormalization" else None
        if added is not None:
            added.op_type = "Sum"
            replaced += 1
    return replaced

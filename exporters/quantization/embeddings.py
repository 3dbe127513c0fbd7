"""int8 storage for weights that are not multiplied as int8: embedding tables, and matrices multiplied head by head.

ONNX Runtime's quantizer gives a whole table one scale, which its few longest rows dictate. A table is looked up and
never multiplied, so that each row can have a scale of its own: E[id] ≈ q[id] · s[id], with s = max|row| / 127.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_LARGEST_INT8 = 127  # of a symmetric scale: -128 is not used
_SMALLEST_RANGE = np.float32(1e-30)  # keeps a column of zeros from a division by zero


def quantize_embeddings(model: onnx.ModelProto) -> int:
    """Replace each look-up in a float table by one in int8 rows and one in their scales, in place.

    A table of single numbers would be no smaller, and stays as it is.

    Returns:
        How many tables were quantized.
    """
    graph = model.graph
    tables = {
        initializer.name: initializer
        for initializer in graph.initializer
        if initializer.data_type == TensorProto.FLOAT and len(initializer.dims) == 2 and initializer.dims[1] > 1
    }
    uses = [name for node in graph.node for name in node.input if name in tables]
    nodes: list[onnx.NodeProto] = []
    quantized = 0
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or uses.count(table.name) > 1 or _axis(node) != 0:
            nodes.append(node)
            continue
        rows, scales = _quantize_rows(numpy_helper.to_array(table))
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(rows, f"{table.name}_rows"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{table.name}_scales"))
        nodes.extend(_lookup_nodes(node, table.name))
        quantized += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return quantized


def quantize_head_matrices(graph: onnx.GraphProto) -> int:
    """Store the matrices that are multiplied head by head as int8, with a scale for each output, in place.

    ONNX Runtime turns them back into floats when it loads the model: they are multiplied once a text, so that int8
    saves room on disk and would save no time.

    Returns:
        How many stacks of matrices, ``(n_heads, n_inputs, n_outputs)``, were stored so.
    """
    stacks = {tensor.name: tensor for tensor in graph.initializer if _is_stack_of_matrices(tensor)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        stack = stacks.pop(node.input[1], None) if node.op_type == "MatMul" else None
        if stack is not None:
            name = stack.name
            weights = numpy_helper.to_array(stack)
            scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), _SMALLEST_RANGE) / _LARGEST_INT8
            graph.initializer.remove(stack)
            graph.initializer.append(numpy_helper.from_array(np.rint(weights / scales).astype(np.int8), f"{name}_int8"))
            graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}_scales"))
            nodes.append(
                helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], f"{name}_cast", to=TensorProto.FLOAT)
            )
            nodes.append(helper.make_node("Mul", [f"{name}_cast", f"{name}_scales"], [name], f"{name}_scaled"))
        nodes.append(node)
    n_stored = (len(nodes) - len(graph.node)) // 2
    del graph.node[:]
    graph.node.extend(nodes)
    return n_stored


def _is_stack_of_matrices(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 3 and min(tensor.dims) > 1


def _quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table ``(n_rows, width)`` as int8 rows and float32 scales ``(n_rows, 1)``; a row of zeros has scale 1."""
    scales = np.abs(table).max(axis=1, keepdims=True) / _LARGEST_INT8
    scales[scales == 0] = 1.0
    return np.rint(table / scales).astype(np.int8), scales.astype(np.float32)


def _lookup_nodes(node: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
    ids, output = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{table}_rows", ids], [f"{output}_rows"], f"{node.name}_rows"),
        helper.make_node("Gather", [f"{table}_scales", ids], [f"{output}_scales"], f"{node.name}_scales"),
        helper.make_node("Cast", [f"{output}_rows"], [f"{output}_cast"], f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}_cast", f"{output}_scales"], [output], node.name),
    ]


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)

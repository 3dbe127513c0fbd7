"""Activations made alike in size before they are quantized, the inverse in the weights. Exact.

A tensor of activations gets one scale, which its few largest channels dictate: behind LayerNorm they are ten times as
large as most. Dividing each channel j by s_j, and multiplying row j of the weights by it, changes no product:

    s_j = max|X_j|^α / max|W_j|^(1−α)        (Xiao et al., SmoothQuant, 2023, eq. 4)

At their α = ½ the weights of encoders suffer more than the activations gain. Weights have a scale for each output here,
so α is larger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.graphs import add_constant

ALPHA = 0.85

_SMALLEST = 1e-5


@dataclass(frozen=True)
class Product:
    """A product with constant weights.

    Attributes:
        node: its name.
        source: what is multiplied.
        weight: name of the matrix.
        transposed: the matrix is ``(n_outputs, n_inputs)``.
    """

    node: str
    source: str
    weight: str
    transposed: bool


def products(graph: onnx.GraphProto) -> list[Product]:
    """All products with a constant matrix."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        Product(node.name, node.input[0], node.input[1], any(a.name == "transB" and a.i for a in node.attribute))
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices
    ]


def range_outputs(graph: onnx.GraphProto) -> dict[str, str]:
    """Add an output for each value that is multiplied: the largest magnitude of each channel, ``(width,)``, in place.

    Returns:
        Name of the value → name of the output.
    """
    outputs: dict[str, str] = {}
    first = add_constant(graph, np.array([0], np.int64), "range_axis")
    for product in products(graph):
        if product.source in outputs:
            continue
        width = len(_by_channel(graph, product))
        name = outputs[product.source] = f"{product.source}_range"
        shape = add_constant(graph, np.array([-1, width], np.int64), f"{name}_shape")
        graph.node.extend(
            [
                helper.make_node("Abs", [product.source], [f"{name}_abs"], f"{name}_abs"),
                helper.make_node("Reshape", [f"{name}_abs", shape], [f"{name}_flat"], f"{name}_flat"),
                helper.make_node("ReduceMax", [f"{name}_flat", first], [name], name, keepdims=0),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [width]))
    return outputs


def smooth(graph: onnx.GraphProto, ranges: Mapping[str, np.ndarray], alpha: float = ALPHA) -> None:
    """Divide each channel that is multiplied, and multiply its weights alike, in place.

    Where layers share their weights, those stay as they are, and so does what they multiply.

    Args:
        graph: of float weights.
        ranges: name of a value → the largest magnitude of each of its channels, ``(width,)``.
        alpha: how much of the difference between channels moves into the weights.
    """
    every = products(graph)
    uses = Counter(product.weight for product in every)
    for source, largest in ranges.items():
        readers = [product for product in every if product.source == source]
        if any(uses[product.weight] > 1 for product in readers):
            continue
        matrices = [_by_channel(graph, product) for product in readers]
        factors = _factors(largest, np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0), alpha)
        for product, matrix in zip(readers, matrices, strict=True):
            scaled = matrix * factors[:, None]
            tensor = next(tensor for tensor in graph.initializer if tensor.name == product.weight)
            content = np.ascontiguousarray(scaled.T if product.transposed else scaled)
            tensor.CopyFrom(numpy_helper.from_array(content, product.weight))
        divide = add_constant(graph, (1 / factors).astype(np.float32), f"{source}_divide")
        node = helper.make_node("Mul", [source, divide], [f"{source}_smooth"], f"{source}_smooth")
        names = {product.node for product in readers}
        graph.node.insert(next(k for k, reader in enumerate(graph.node) if reader.name in names), node)
        for reader in graph.node:
            if reader.name in names:
                reader.input[0] = f"{source}_smooth"


def _factors(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s, scaled so that its geometric mean is 1."""
    factors = np.maximum(activations, _SMALLEST) ** alpha / np.maximum(weights, _SMALLEST) ** (1 - alpha)
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)


def _by_channel(graph: onnx.GraphProto, product: Product) -> np.ndarray:
    """The matrix as ``(n_inputs, n_outputs)``."""
    matrix = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == product.weight))
    return matrix.T if product.transposed else matrix

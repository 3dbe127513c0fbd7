"""What a model multiplies on calibration texts: the largest value of each channel, and how channels correlate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.rewrites.graph_editing import add_constant


@dataclass(frozen=True)
class Product:
    """A product of a value with a constant matrix.

    Attributes:
        node: The name of the node.
        source: The name of the value that is multiplied.
        weight: The name of the matrix.
        transposed: Whether the matrix is stored as ``(n_outputs, n_inputs)``.
    """

    node: str
    source: str
    weight: str
    transposed: bool

    def matrix(self, graph: onnx.GraphProto) -> np.ndarray:
        """The weights, ``(n_inputs, n_outputs)``."""
        content = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == self.weight))
        return content.T if self.transposed else content

    def write(self, graph: onnx.GraphProto, matrix: np.ndarray) -> None:
        """Replace the weights by others, ``(n_inputs, n_outputs)``."""
        tensor = next(tensor for tensor in graph.initializer if tensor.name == self.weight)
        content = np.ascontiguousarray(matrix.T if self.transposed else matrix, dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(content, self.weight))


@dataclass(frozen=True)
class Activation:
    """Statistics of a multiplied value X, ``(n_tokens, width)``, over the tokens of calibration texts.

    Attributes:
        largest: The largest magnitude of each channel, ``(width,)``.
        gram: Xᵀ X, ``(width, width)``.
    """

    largest: np.ndarray
    gram: np.ndarray

    def divide(self, factors: np.ndarray) -> Activation:
        """The statistics after each channel is divided by its factor, ``(width,)``."""
        return Activation(self.largest / factors, self.gram / np.outer(factors, factors))

    def select(self, channels: np.ndarray) -> Activation:
        """The statistics of these channels, some of which may come several times."""
        return Activation(self.largest[channels], self.gram[np.ix_(channels, channels)])


Activations = Mapping[str, Activation]  # by the name of the multiplied value


def constant_products(graph: onnx.GraphProto) -> list[Product]:
    """All products with a constant matrix, in the order of the graph."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        Product(node.name, node.input[0], node.input[1], any(a.name == "transB" and a.i for a in node.attribute))
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices
    ]


def shared_weights(products: Sequence[Product]) -> set[str]:
    """The names of the matrices that more than one product uses, as in ALBERT, whose layers share their weights."""
    return {weight for weight, count in Counter(product.weight for product in products).items() if count > 1}


def add_observers(graph: onnx.GraphProto) -> dict[str, tuple[str, str]]:
    """Add two outputs for each multiplied value, in place: ``largest`` and ``gram`` of its :class:`Activation`.

    Returns:
        The names of the two outputs, by the name of the value.
    """
    outputs: dict[str, tuple[str, str]] = {}
    token_axis = add_constant(graph, np.array([0], np.int64), "observed_axis")
    for product in constant_products(graph):
        source = product.source
        if source in outputs:
            continue
        width = len(product.matrix(graph))
        largest, gram = outputs[source] = f"{source}_largest", f"{source}_gram"
        rows = f"{source}_rows"
        shape = add_constant(graph, np.array([-1, width], np.int64), f"{rows}_shape")
        graph.node.extend(
            [
                helper.make_node("Reshape", [source, shape], [rows], rows),
                helper.make_node("Abs", [rows], [f"{rows}_abs"], f"{rows}_abs"),
                helper.make_node("ReduceMax", [f"{rows}_abs", token_axis], [largest], largest, keepdims=0),
                helper.make_node("Transpose", [rows], [f"{rows}_turned"], f"{rows}_turned", perm=[1, 0]),
                helper.make_node("MatMul", [f"{rows}_turned", rows], [gram], gram),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, [width]))
        graph.output.append(helper.make_tensor_value_info(gram, TensorProto.FLOAT, [width, width]))
    return outputs


def merge_activations(batches: Sequence[Activation]) -> Activation:
    """The statistics over the tokens of several batches together."""
    largest = np.max([batch.largest for batch in batches], axis=0)
    return Activation(largest, np.sum([batch.gram for batch in batches], axis=0))

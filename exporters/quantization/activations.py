"""What a model multiplies, seen on texts: how large each channel gets, and how channels go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.rewrites.graphs import add_constant


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

    def matrix(self, graph: onnx.GraphProto) -> np.ndarray:
        """Its weights, ``(n_inputs, n_outputs)``."""
        content = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == self.weight))
        return content.T if self.transposed else content

    def write(self, graph: onnx.GraphProto, matrix: np.ndarray) -> None:
        """Replace its weights by others, ``(n_inputs, n_outputs)``."""
        tensor = next(tensor for tensor in graph.initializer if tensor.name == self.weight)
        content = np.ascontiguousarray(matrix.T if self.transposed else matrix, dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(content, self.weight))


@dataclass(frozen=True)
class Activation:
    """A value that is multiplied, as it was seen on texts.

    Attributes:
        largest: magnitude of each channel, ``(width,)``.
        gram: Xᵀ X over all tokens seen, ``(width, width)``.
    """

    largest: np.ndarray
    gram: np.ndarray

    def divided(self, factors: np.ndarray) -> Activation:
        """Each channel divided by its factor, ``(width,)``."""
        return Activation(self.largest / factors, self.gram / np.outer(factors, factors))

    def taken(self, channels: np.ndarray) -> Activation:
        """Some channels, or some of them several times."""
        return Activation(self.largest[channels], self.gram[np.ix_(channels, channels)])


Activations = Mapping[str, Activation]  # by the name of the value


def products(graph: onnx.GraphProto) -> list[Product]:
    """All products with a constant matrix."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        Product(node.name, node.input[0], node.input[1], any(a.name == "transB" and a.i for a in node.attribute))
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices
    ]


def shared_weights(every: Sequence[Product]) -> set[str]:
    """Names of the matrices that more than one product multiplies by, as layers do that share their weights."""
    return {weight for weight, count in Counter(product.weight for product in every).items() if count > 1}


def add_observers(graph: onnx.GraphProto) -> dict[str, tuple[str, str]]:
    """Add two outputs for each value that is multiplied, in place: ``largest`` and ``gram`` of an :class:`Activation`.

    Returns:
        Name of the value → names of the outputs.
    """
    outputs: dict[str, tuple[str, str]] = {}
    first = add_constant(graph, np.array([0], np.int64), "observed_axis")
    for product in products(graph):
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
                helper.make_node("ReduceMax", [f"{rows}_abs", first], [largest], largest, keepdims=0),
                helper.make_node("Transpose", [rows], [f"{rows}_turned"], f"{rows}_turned", perm=[1, 0]),
                helper.make_node("MatMul", [f"{rows}_turned", rows], [gram], gram),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, [width]))
        graph.output.append(helper.make_tensor_value_info(gram, TensorProto.FLOAT, [width, width]))
    return outputs


def joined(seen: Sequence[Activation]) -> Activation:
    """The activations of several batches as those of one."""
    return Activation(np.max([batch.largest for batch in seen], axis=0), np.sum([batch.gram for batch in seen], axis=0))

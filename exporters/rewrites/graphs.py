"""Finding one's way in an ONNX graph: who makes a value, who reads it, which are constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper


class GraphIndex:
    """Producers, readers and constants of a graph, as it is when this is made.

    Args:
        graph: without subgraphs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}

    def producer(self, name: str, *op_types: str) -> NodeProto | None:
        """The node that makes a value, if it is of one of these types, or of any if none are named."""
        node = self._producers.get(name)
        return node if node is not None and (not op_types or node.op_type in op_types) else None

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes that read a value."""
        return self._readers.get(name, [])

    def only_reader(self, name: str, *op_types: str) -> NodeProto | None:
        """The one node that reads a value, if it is of one of these types."""
        found = self.readers(name)
        single = len(found) == 1 and found[0].op_type in op_types and name not in self._outputs
        return found[0] if single else None

    def constant(self, name: str) -> np.ndarray | None:
        """The content of an initializer; None for anything else."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def scalar(self, name: str) -> float | None:
        """The one number in an initializer; None for anything else."""
        value = self.constant(name)
        return float(value.item()) if value is not None and value.size == 1 else None

    def with_constant(self, node: NodeProto) -> tuple[str, np.ndarray] | None:
        """The inputs of a node of two, one of which is a constant: the other's name, and its content."""
        for name, other in (node.input, reversed(node.input)):
            value = self.constant(other)
            if value is not None:
                return name, value
        return None


def attribute(node: NodeProto, name: str, default: int | list[int]) -> int | list[int]:
    """An attribute of whole numbers."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def other_input(node: NodeProto, name: str) -> str:
    """The input beside this one of a node that has two."""
    first, second = node.input
    return second if first == name else first


def add_constant(graph: onnx.GraphProto, value: np.ndarray, name: str) -> str:
    """Add an initializer, under this name or one like it that is free; returns the name."""
    taken = {tensor.name for tensor in graph.initializer}
    free, count = name, 1
    while free in taken:
        free, count = f"{name}_{count}", count + 1
    graph.initializer.append(numpy_helper.from_array(value, free))
    return free


def replace_nodes(graph: onnx.GraphProto, replacements: Mapping[str, Iterable[NodeProto]]) -> None:
    """Put other nodes where the makers of these values stand, then drop what nobody reads any more.

    Args:
        graph: changed in place.
        replacements: name of a value → the nodes, in order, the last of which makes it now.
    """
    nodes: list[NodeProto] = []
    for node in graph.node:
        replaced = next((name for name in node.output if name in replacements), None)
        nodes.extend([node] if replaced is None else replacements[replaced])
    _keep(graph, nodes)


def _keep(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Only these nodes, as far as an output depends on them, and the constants that they read."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(constants)

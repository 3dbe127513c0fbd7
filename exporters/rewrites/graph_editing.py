"""Tools to find and replace nodes of an ONNX graph: who computes a value, who reads it, which values are constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper


class GraphIndex:
    """Producers, readers and constants of a graph, as the graph is when the index is created.

    Args:
        graph: A graph without subgraphs.
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
        """The node that computes a value, if it has one of these types, or any type if none are named."""
        node = self._producers.get(name)
        return node if node is not None and (not op_types or node.op_type in op_types) else None

    def chain_to(self, name: str, *op_types: str) -> list[NodeProto] | None:
        """The chain of nodes that ends in a value, last node first, each node being the first input of the next.

        Args:
            name: The value that the chain computes.
            op_types: The type of each node, starting from the one that computes the value.

        Returns:
            The nodes in the order of ``op_types``; None if the types differ.
        """
        chain: list[NodeProto] = []
        for op_type in op_types:
            node = self.producer(chain[-1].input[0] if chain else name, op_type)
            if node is None:
                return None
            chain.append(node)
        return chain

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes that read a value."""
        return self._readers.get(name, [])

    def only_reader(self, name: str, *op_types: str) -> NodeProto | None:
        """The only node that reads a value, if it has one of these types and the value is no output of the graph."""
        readers = self.readers(name)
        single = len(readers) == 1 and readers[0].op_type in op_types and name not in self._outputs
        return readers[0] if single else None

    def chain_from(self, name: str, *op_types: str) -> list[NodeProto] | None:
        """The chain of nodes that starts from a value, each the only reader of the one before.

        Args:
            name: The value that the first node reads.
            op_types: The type of each node in turn.

        Returns:
            The nodes in order; None if the types differ or another node reads along the way.
        """
        chain: list[NodeProto] = []
        for op_type in op_types:
            node = self.only_reader(chain[-1].output[0] if chain else name, op_type)
            if node is None:
                return None
            chain.append(node)
        return chain

    def constant(self, name: str) -> np.ndarray | None:
        """The content of an initializer; None for any other value."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def scalar(self, name: str) -> float | None:
        """The number in an initializer of one entry; None for any other value."""
        value = self.constant(name)
        return float(value.item()) if value is not None and value.size == 1 else None

    def split_constant(self, node: NodeProto) -> tuple[str, np.ndarray] | None:
        """Of a node with two inputs, the name of the variable one and the content of the constant one.

        None if neither input is a constant.
        """
        for variable, constant in (node.input, reversed(node.input)):
            value = self.constant(constant)
            if value is not None:
                return variable, value
        return None


def attribute(node: NodeProto, name: str, default: int | list[int]) -> int | list[int]:
    """An integer attribute of a node, or a list of integers."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def other_input(node: NodeProto, name: str) -> str:
    """The other input of a node that has two."""
    first, second = node.input
    return second if first == name else first


def add_constant(graph: onnx.GraphProto, value: np.ndarray, name: str) -> str:
    """Add an initializer under this name, numbered if the name is taken.

    Returns:
        The name under which it was added.
    """
    taken = {tensor.name for tensor in graph.initializer}
    free, count = name, 1
    while free in taken:
        free, count = f"{name}_{count}", count + 1
    graph.initializer.append(numpy_helper.from_array(value, free))
    return free


def name_value(graph: onnx.GraphProto, name: str) -> str:
    """A name that no value of the graph has yet: this one, numbered if it is taken."""
    taken = {entry for node in graph.node for entry in (*node.input, *node.output)}
    taken |= {entry.name for entry in (*graph.input, *graph.output, *graph.initializer)}
    free, count = name, 1
    while free in taken:
        free, count = f"{name}_{count}", count + 1
    return free


def rename_value(graph: onnx.GraphProto, name: str, new_name: str) -> None:
    """Give a value another name wherever nodes compute or read it, in place; outputs of the graph keep theirs."""
    for node in graph.node:
        for entries in (node.input, node.output):
            entries[:] = [new_name if entry == name else entry for entry in entries]


def replace_nodes(graph: onnx.GraphProto, replacements: Mapping[str, Iterable[NodeProto]]) -> None:
    """Compute some values by other nodes, and drop the nodes and constants that no output depends on any more.

    Args:
        graph: The graph, changed in place.
        replacements: For each value, the nodes that replace its producer, in order; the last one computes the value.
    """
    nodes: list[NodeProto] = []
    for node in graph.node:
        replaced = next((name for name in node.output if name in replacements), None)
        nodes.extend([node] if replaced is None else replacements[replaced])
    keep_needed(graph, nodes)


def keep_needed(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Give the graph those of the nodes that an output depends on, and keep only the constants that they read."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)

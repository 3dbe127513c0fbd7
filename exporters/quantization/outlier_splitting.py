"""Channels that reach far beyond the others, cut into several that each reach less far. Exact.

Behind the activation of a feed-forward, one channel may be ten times as large as any other at one token of each text,
and nothing elsewhere: it alone dictates the scale of all. A channel that is computed k times, each copy divided by k,
adds up to the same in the next product (outlier channel splitting, Zhao et al., 2019, arXiv 1901.09504).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from amalgam_edge.exporters.quantization.activations import Product, products, shared_weights
from amalgam_edge.exporters.quantization.smoothing import Smoothed
from amalgam_edge.exporters.rewrites.graphs import GraphIndex

COPIES = 16  # for each 1,536 channels: 1 %, and kernels take outputs in sixteens

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "Pow", "Sqrt", "Neg")


@dataclass(frozen=True)
class Hidden:
    """A value made from a product channel by channel, such as the inside of a feed-forward.

    Attributes:
        maker: the product.
        vectors: names of the constants of one entry a channel on the way, and of the maker's bias.
    """

    maker: Product
    vectors: tuple[str, ...]


def hidden_values(graph: onnx.GraphProto) -> dict[str, Hidden]:
    """The multiplied values that can be split, by name: nothing else reads what they are made of."""
    index = GraphIndex(graph)
    every = products(graph)
    shared = shared_weights(every)
    by_node = {product.node: product for product in every if product.weight not in shared}
    found = {}
    for source in {product.source for product in every}:
        hidden = _hidden(index, by_node, graph, source)
        if hidden is not None:
            found[source] = hidden
    return found


def split_outliers(
    graph: onnx.GraphProto, hidden: Mapping[str, Hidden], smoothed: Mapping[str, Smoothed]
) -> dict[str, Smoothed]:
    """Split the largest channels of smoothed values, in place.

    Args:
        graph: after smoothing.
        hidden: what can be split.
        smoothed: what was smoothed of it; the divisor takes up the number of copies.

    Returns:
        The same values with more channels.
    """
    split = dict(smoothed)
    for source, value in smoothed.items():
        if source not in hidden:
            continue
        copies = copies_of(value.activation.largest)
        channels = np.concatenate([np.arange(len(copies)), np.repeat(np.arange(len(copies)), copies - 1)])
        maker = hidden[source].maker
        maker.write(graph, maker.matrix(graph)[:, channels])
        _retake(graph, hidden[source].vectors, channels)
        _retake(graph, (value.divisor,), channels, copies)
        for product in products(graph):
            if product.source == value.name:
                product.write(graph, product.matrix(graph)[channels])
        activation = value.activation.taken(channels).divided(copies[channels])
        split[source] = Smoothed(value.name, value.divisor, activation)
    return split


def copies_of(largest: np.ndarray) -> np.ndarray:
    """How many copies each channel gets, ``(width,)``: the one that then reaches farthest is always split next."""
    copies = np.ones(len(largest), dtype=np.int64)
    for _ in range(COPIES * -(-len(largest) // 1536)):
        copies[np.argmax(largest / copies)] += 1
    return copies


def _retake(
    graph: onnx.GraphProto, names: tuple[str, ...], channels: np.ndarray, divisors: np.ndarray | None = None
) -> None:
    for tensor in graph.initializer:
        if tensor.name in names:
            content = numpy_helper.to_array(tensor)[channels]
            if divisors is not None:
                content = (content / divisors[channels]).astype(content.dtype)
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))


def _hidden(index: GraphIndex, makers: Mapping[str, Product], graph: onnx.GraphProto, source: str) -> Hidden | None:
    """Walk back from a value to the one product that it is made of."""
    inside: dict[str, NodeProto] = {}
    vectors: set[str] = set()
    pending = [source]
    while pending:
        name = pending.pop()
        if name in inside:
            continue
        node = index.producer(name)
        if node is None or not (node.name in makers or node.op_type in _ELEMENTWISE):
            return None
        inside[name] = node
        if node.name in makers:
            vectors.update(node.input[2:])  # a Gemm's bias
            continue
        constants = {entry: index.constant(entry) for entry in node.input}
        vectors.update(entry for entry, value in constants.items() if value is not None and value.size > 1)
        pending.extend(entry for entry, value in constants.items() if value is None)
    found = [makers[node.name] for node in inside.values() if node.name in makers]
    if len(found) != 1 or len(inside) < 2:
        return None
    (maker,) = found
    width = len(maker.matrix(graph).T)
    within = {node.name for node in inside.values()}
    own = [*vectors, *(inside.keys() - {source})]
    alone = all(reader.name in within for name in own for reader in index.readers(name))
    values = [index.constant(name) for name in vectors]
    shaped = all(value is not None and value.shape == (width,) for value in values)
    multiplied = all(reader.op_type in ("MatMul", "Gemm") for reader in index.readers(source))
    return Hidden(maker, tuple(sorted(vectors))) if alone and shaped and multiplied else None

"""Split channels that reach far beyond all others into several copies that each reach less far. Exact.

Behind the activation function of a feed-forward, one channel may be ten times as large as any other at one token of
each text, and nothing elsewhere: it alone dictates the scale of the whole tensor. A channel that is computed k times,
each copy divided by k, adds up to the same in the next product (outlier channel splitting, Zhao et al., 2019, arXiv
1901.09504).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from amalgam_edge.exporters.quantization.activations import Product, constant_products, shared_weights
from amalgam_edge.exporters.quantization.smoothing import SmoothedValue
from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex

COPIES_PER_BLOCK = 16  # 1 % more channels; ONNX Runtime's kernels compute outputs in sixteens
_BLOCK_OF_CHANNELS = 1536  # the width of MiniLM's feed-forward

_ELEMENTWISE_OPERATIONS = ("Add", "Sub", "Mul", "Div", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "Pow", "Sqrt", "Neg")


@dataclass(frozen=True)
class SplittableValue:
    """A multiplied value computed channel by channel from one product, such as the inside of a feed-forward.

    Attributes:
        product: The product that the value is computed from.
        vectors: The names of the constants with an entry for each channel in between, the product's bias among them.
    """

    product: Product
    vectors: tuple[str, ...]


@dataclass(frozen=True)
class _Computation:
    """The nodes between a product and a value computed from it.

    Attributes:
        products: The products that the value depends on.
        nodes: All nodes in between and the products, by the value that each computes.
        vectors: The names of the constants of more than one entry that the nodes read, the products' biases among them.
    """

    products: tuple[Product, ...]
    nodes: Mapping[str, NodeProto]
    vectors: frozenset[str]


def splittable_values(graph: onnx.GraphProto) -> dict[str, SplittableValue]:
    """The multiplied values whose channels can be split, by name."""
    index = GraphIndex(graph)
    products = constant_products(graph)
    shared = shared_weights(products)
    by_node = {product.node: product for product in products if product.weight not in shared}
    found = {}
    for source in {product.source for product in products}:
        splittable = _as_splittable(index, by_node, graph, source)
        if splittable is not None:
            found[source] = splittable
    return found


def split_outliers(
    graph: onnx.GraphProto, splittable: Mapping[str, SplittableValue], smoothed: Mapping[str, SmoothedValue]
) -> dict[str, SmoothedValue]:
    """Split the largest channels of smoothed values, in place.

    Args:
        graph: The graph after smoothing.
        splittable: The values that can be split, as they were before smoothing.
        smoothed: The values that were smoothed; their divisors take up the division by the number of copies.

    Returns:
        The smoothed values, with more channels where they were split.
    """
    split = dict(smoothed)
    for source, value in smoothed.items():
        if source not in splittable:
            continue
        copies = copies_of_channels(value.activation.largest)
        channels = np.concatenate([np.arange(len(copies)), np.repeat(np.arange(len(copies)), copies - 1)])
        product = splittable[source].product
        product.write(graph, product.matrix(graph)[:, channels])
        _select_channels(graph, splittable[source].vectors, channels)
        _select_channels(graph, (value.divisor,), channels, copies)
        for reader in constant_products(graph):
            if reader.source == value.name:
                reader.write(graph, reader.matrix(graph)[channels])
        activation = value.activation.select(channels).divide(copies[channels])
        split[source] = SmoothedValue(value.name, value.divisor, activation)
    return split


def copies_of_channels(largest: np.ndarray) -> np.ndarray:
    """How many copies each channel gets, ``(width,)``, so that the largest copy is as small as it can be.

    Each further copy goes to the channel whose copies are then the largest.

    Args:
        largest: The largest magnitude of each channel, ``(width,)``.
    """
    copies = np.ones(len(largest), dtype=np.int64)
    n_blocks = -(-len(largest) // _BLOCK_OF_CHANNELS)  # rounded up
    for _ in range(COPIES_PER_BLOCK * n_blocks):
        copies[np.argmax(largest / copies)] += 1
    return copies


def _select_channels(
    graph: onnx.GraphProto, names: tuple[str, ...], channels: np.ndarray, divisors: np.ndarray | None = None
) -> None:
    """Give vectors an entry for each of these channels, divided by the channel's divisor if there are any."""
    for tensor in graph.initializer:
        if tensor.name in names:
            content = numpy_helper.to_array(tensor)[channels]
            if divisors is not None:
                content = (content / divisors[channels]).astype(content.dtype)
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))


def _as_splittable(
    index: GraphIndex, products: Mapping[str, Product], graph: onnx.GraphProto, source: str
) -> SplittableValue | None:
    """The value as one that can be split; None if splitting its channels would change an answer."""
    computation = _walk_back(index, products, source)
    if computation is None or len(computation.products) != 1 or len(computation.nodes) < 2:
        return None
    (product,) = computation.products
    n_channels = product.matrix(graph).shape[1]
    may_be_split = (
        _is_read_within(index, computation, source)
        and _have_one_entry_per_channel(index, computation.vectors, n_channels)
        and _feeds_products_alone(index, source)
    )
    return SplittableValue(product, tuple(sorted(computation.vectors))) if may_be_split else None


def _walk_back(index: GraphIndex, products: Mapping[str, Product], source: str) -> _Computation | None:
    """Follow a value back through elementwise operations to products; None if anything else is on the way."""
    nodes: dict[str, NodeProto] = {}
    vectors: set[str] = set()
    pending = [source]
    while pending:
        name = pending.pop()
        if name in nodes:
            continue
        node = index.producer(name)
        if node is None or not (node.name in products or node.op_type in _ELEMENTWISE_OPERATIONS):
            return None
        nodes[name] = node
        if node.name in products:
            vectors.update(node.input[2:])  # a Gemm's bias
            continue
        constants = {entry: index.constant(entry) for entry in node.input}
        vectors.update(entry for entry, value in constants.items() if value is not None and value.size > 1)
        pending.extend(entry for entry, value in constants.items() if value is None)
    reached = tuple(products[node.name] for node in nodes.values() if node.name in products)
    return _Computation(reached, nodes, frozenset(vectors))


def _is_read_within(index: GraphIndex, computation: _Computation, source: str) -> bool:
    """Whether everything on the way to a value, constants included, is read by the computation alone."""
    inside = {node.name for node in computation.nodes.values()}
    on_the_way = [*computation.vectors, *(computation.nodes.keys() - {source})]
    return all(reader.name in inside for name in on_the_way for reader in index.readers(name))


def _have_one_entry_per_channel(index: GraphIndex, vectors: Iterable[str], n_channels: int) -> bool:
    values = [index.constant(name) for name in vectors]
    return all(value is not None and value.shape == (n_channels,) for value in values)


def _feeds_products_alone(index: GraphIndex, source: str) -> bool:
    return all(reader.op_type in ("MatMul", "Gemm") for reader in index.readers(source))

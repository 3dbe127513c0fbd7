"""Divide channels by factors so that all have a similar size, and multiply the weights by the same factors. Exact.

Activations are quantized with one scale for a whole tensor, which its few largest channels dictate: behind LayerNorm
they are ten times as large as most. Dividing each channel j by s_j, and multiplying row j of the weights by it, changes
no product:

    s_j = max|X_j|^α / max|W_j|^(1−α)        (SmoothQuant, Xiao et al., 2023, eq. 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from amalgam_edge.exporters.quantization.activations import (
    Activation,
    Activations,
    Product,
    constant_products,
    shared_weights,
)
from amalgam_edge.exporters.rewrites.graph_editing import add_constant

_SMALLEST_SIZE = 1e-5  # of a channel, so that no factor is zero
_SMALLEST_SPREAD = 3.0  # largest over median channel; below it smoothing gains less than its operation costs


@dataclass(frozen=True)
class SmoothedValue:
    """A multiplied value whose channels have been divided.

    Attributes:
        name: The name of the divided value.
        divisor: The name of the constant that the value is multiplied by, 1 / s, ``(width,)``.
        activation: The statistics of the divided value.
    """

    name: str
    divisor: str
    activation: Activation


def smooth(graph: onnx.GraphProto, activations: Activations, alpha: float) -> dict[str, SmoothedValue]:
    """Divide the channels of multiplied values, and multiply the weights alike, in place.

    A value stays as it is if its channels and those of its weights are alike in size, or if layers share the weights.

    Args:
        graph: A graph with float weights.
        activations: The statistics of the multiplied values.
        alpha: How much of the difference between channels moves into the weights, from 0 to 1.

    Returns:
        The values that were divided, by their name before.
    """
    products = constant_products(graph)
    shared = shared_weights(products)
    smoothed: dict[str, SmoothedValue] = {}
    for source, activation in activations.items():
        readers = [product for product in products if product.source == source]
        matrices = [product.matrix(graph) for product in readers]
        weight_sizes = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
        worth_smoothing = _differ_in_size(activation.largest) or _differ_in_size(weight_sizes)
        if not worth_smoothing or any(product.weight in shared for product in readers):
            continue
        factors = _factors(activation.largest, weight_sizes, alpha)
        for product, matrix in zip(readers, matrices, strict=True):
            product.write(graph, matrix * factors[:, None])
        name, divisor = _insert_division(graph, source, readers, factors)
        smoothed[source] = SmoothedValue(name, divisor, activation.divide(factors))
    return smoothed


def _insert_division(
    graph: onnx.GraphProto, source: str, readers: Sequence[Product], factors: np.ndarray
) -> tuple[str, str]:
    """Let the products read the value divided by the factors; returns the names of the new value and the divisor."""
    divisor = add_constant(graph, (1 / factors).astype(np.float32), f"{source}_divisor")
    name = f"{source}_smooth"
    reading_nodes = {product.node for product in readers}
    division = helper.make_node("Mul", [source, divisor], [name], name)
    graph.node.insert(next(k for k, node in enumerate(graph.node) if node.name in reading_nodes), division)
    for node in graph.node:
        if node.name in reading_nodes:
            node.input[0] = name
    return name, divisor


def _differ_in_size(sizes: np.ndarray) -> bool:
    return bool(sizes.max() > _SMALLEST_SPREAD * np.median(sizes))


def _factors(activation_sizes: np.ndarray, weight_sizes: np.ndarray, alpha: float) -> np.ndarray:
    """The factor s of each channel, scaled so that their geometric mean is 1."""
    of_activations = np.maximum(activation_sizes, _SMALLEST_SIZE) ** alpha
    of_weights = np.maximum(weight_sizes, _SMALLEST_SIZE) ** (1 - alpha)
    factors = of_activations / of_weights
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)

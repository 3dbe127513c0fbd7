"""Activations made alike in size before they are quantized, the inverse in the weights. Exact.

A tensor of activations gets one scale, which its few largest channels dictate: behind LayerNorm they are ten times as
large as most. Dividing each channel j by s_j, and multiplying row j of the weights by it, changes no product:

    s_j = max|X_j|^α / max|W_j|^(1−α)        (Xiao et al., SmoothQuant, 2023, eq. 4)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from amalgam_edge.exporters.quantization.activations import Activation, Activations, products, shared_weights
from amalgam_edge.exporters.rewrites.graphs import add_constant

_SMALLEST = 1e-5
_SPREAD = 3.0  # of the largest channel over the median one; below it, what smoothing gains is not worth an operation


@dataclass(frozen=True)
class Smoothed:
    """A value whose channels have been divided.

    Attributes:
        name: of the divided value.
        divisor: name of the constant that it is multiplied by, 1 / s, ``(width,)``.
        activation: of the divided value.
    """

    name: str
    divisor: str
    activation: Activation


def smooth(graph: onnx.GraphProto, activations: Activations, alpha: float) -> dict[str, Smoothed]:
    """Divide each channel that is multiplied, and multiply its weights alike, in place.

    What is left as it is: values whose channels are alike in size, as are the weights that they meet, and those
    that meet weights which layers share.

    Args:
        graph: of float weights.
        activations: as they were seen.
        alpha: how much of the difference between channels moves into the weights.

    Returns:
        Name of the value → what became of it.
    """
    every = products(graph)
    shared = shared_weights(every)
    smoothed: dict[str, Smoothed] = {}
    for source, activation in activations.items():
        readers = [product for product in every if product.source == source]
        matrices = [product.matrix(graph) for product in readers]
        heaviest = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
        alike = not (_differ(activation.largest) or _differ(heaviest))
        if alike or any(product.weight in shared for product in readers):
            continue
        factors = _factors(activation.largest, heaviest, alpha)
        for product, matrix in zip(readers, matrices, strict=True):
            product.write(graph, matrix * factors[:, None])
        divisor = add_constant(graph, (1 / factors).astype(np.float32), f"{source}_divisor")
        name = f"{source}_smooth"
        names = {product.node for product in readers}
        node = helper.make_node("Mul", [source, divisor], [name], name)
        graph.node.insert(next(k for k, reader in enumerate(graph.node) if reader.name in names), node)
        for reader in graph.node:
            if reader.name in names:
                reader.input[0] = name
        smoothed[source] = Smoothed(name, divisor, activation.divided(factors))
    return smoothed


def _differ(sizes: np.ndarray) -> bool:
    return bool(sizes.max() > _SPREAD * np.median(sizes))


def _factors(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s, scaled so that its geometric mean is 1."""
    factors = np.maximum(activations, _SMALLEST) ** alpha / np.maximum(weights, _SMALLEST) ** (1 - alpha)
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)

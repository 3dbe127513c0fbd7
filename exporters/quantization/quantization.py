"""int8 by ONNX Runtime's dynamic quantization, of a model that was made ready for it.

Weights that are multiplied are signed 7-bit numbers, never signed 8-bit: on x86 without VNNI the product of unsigned
activations with full-range signed weights saturates a 16-bit sum and gives wrong answers, and a student travels to CPUs
other than the one that built it. Unsigned 8-bit ones are right too, and slower there; with weights rounded for their
products' sake they are no nearer to the float model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from amalgam_edge.exporters.quantization.activations import Activations, products
from amalgam_edge.exporters.quantization.embeddings import quantize_by_head, quantize_embeddings
from amalgam_edge.exporters.quantization.outlier_splitting import hidden_values, split_outliers
from amalgam_edge.exporters.quantization.product_quantization import quantize_tables_by_product
from amalgam_edge.exporters.quantization.rounding import round_weights
from amalgam_edge.exporters.quantization.smoothing import smooth
from amalgam_edge.exporters.rewrites.fused_attention import fuse_attention
from amalgam_edge.exporters.rewrites.fusible import keep_residuals_apart

# Measured on students of 3 and 6 layers: at the ½ of SmoothQuant activations are still the larger error, at 0.85 the
# weights are. Where the farthest channels are split, smoothing has less to do.
_ALPHA, _ALPHA_SPLIT = 0.65, 0.45


@dataclass(frozen=True)
class Quantization:
    """One way to quantize.

    Attributes:
        name: for the manifest and the report.
        calibrated: by what activations are on texts, channels are made alike in size first, and the farthest split.
        rounded: by the same, weights are rounded for their products' sake.
        float_nodes: products left in float.
        product_tables: tables of tokens by product quantization rather than in int8 rows.
    """

    name: str
    calibrated: bool = False
    rounded: bool = False
    float_nodes: tuple[str, ...] = ()
    product_tables: bool = False


LADDER = (Quantization("7-bit weights", calibrated=True, rounded=True),)


def quantize(source: Path, target: Path, how: Quantization, activations: Activations | None = None) -> None:
    """Write a quantized copy of an ONNX model: embedding tables by row, products with weights as ``how`` says.

    Weights have a scale for each output. Attention becomes one node where ONNX Runtime has a kernel for it. Weights
    that are multiplied head by head, once a text, are stored in int8 and multiplied in float.

    Args:
        source: the float model.
        target: the quantized one.
        how: in which way.
        activations: of the float model; read only where ``how`` is calibrated or rounded.
    """
    model = onnx.load(source)
    graph = model.graph
    del graph.value_info[:]
    seen: Activations = activations or {}
    if how.calibrated:
        seen = _calibrate(graph, seen)
    if how.product_tables:
        quantize_tables_by_product(graph)
    quantize_embeddings(model)
    quantize_by_head(graph)
    fuse_attention(model)
    keep_residuals_apart(graph)
    every = products(graph)
    matrices = {product.node for product in every}
    float_nodes = {*how.float_nodes, *(n.name for n in graph.node if n.op_type == "MatMul" and n.name not in matrices)}
    _quantize_products(model, target, float_nodes)
    if how.rounded:
        quantized = onnx.load(target)
        if round_weights(quantized.graph, graph, every, seen):
            onnx.save(quantized, target)


def _calibrate(graph: onnx.GraphProto, activations: Activations) -> Activations:
    """Smooth, and split; returns what is multiplied afterwards."""
    hidden = hidden_values(graph)
    inside = {name: seen for name, seen in activations.items() if name in hidden}
    beside = {name: seen for name, seen in activations.items() if name not in hidden}
    smoothed = split_outliers(graph, hidden, smooth(graph, inside, _ALPHA_SPLIT)) | smooth(graph, beside, _ALPHA)
    return {**activations, **{value.name: value.activation for value in smoothed.values()}}


def _quantize_products(model: onnx.ModelProto, target: Path, float_nodes: set[str]) -> None:
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the quantizer recommends a preprocessing that the exporter has done
    try:
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # The quantizer turns Gemm into MatMul under a new name before it looks at the excluded ones.
            nodes_to_exclude=[name for node in float_nodes for name in (node, f"{node}_MatMul")],
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # shapes end at an operator that ONNX does not know
        )
    finally:
        logger.setLevel(level)


def quantizable_products(source: Path) -> list[str]:
    """Names of the nodes that :func:`quantize` makes int8 products of: those with a constant matrix."""
    return [product.node for product in products(onnx.load(source, load_external_data=False).graph)]


def with_float_nodes(how: Quantization, ranked: Sequence[str]) -> Iterator[Quantization]:
    """The same quantization with 1, 2, 4 … of the worst products left in float, up to half of them.

    Args:
        how: where to start from.
        ranked: quantizable products, the most harmful first.
    """
    count = 1
    while count <= len(ranked) // 2:
        yield replace(how, name=f"{how.name}, {count} product(s) in float", float_nodes=tuple(ranked[:count]))
        count *= 2

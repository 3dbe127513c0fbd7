"""int8 by ONNX Runtime's dynamic quantization, of a model that is prepared for it by smoothing and splitting.

Multiplied weights are signed 7-bit numbers and never signed 8-bit ones. On x86 CPUs without VNNI the product of
unsigned activations with full-range signed weights saturates a 16-bit sum and gives wrong answers, and a student runs
on other CPUs than the one that built it. Unsigned 8-bit weights are right as well, but slower there, and with GPTQ
rounding they are no nearer to the float model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from amalgam_edge.exporters.quantization.activations import Activations, constant_products
from amalgam_edge.exporters.quantization.embeddings import quantize_embeddings, quantize_head_matrices
from amalgam_edge.exporters.quantization.outlier_splitting import split_outliers, splittable_values
from amalgam_edge.exporters.quantization.product_quantization import quantize_tables_by_product
from amalgam_edge.exporters.quantization.rounding import round_weights
from amalgam_edge.exporters.quantization.smoothing import smooth
from amalgam_edge.exporters.rewrites.fused_attention import fuse_attention
from amalgam_edge.exporters.rewrites.kernel_patterns import prevent_skip_layer_norm_fusion

# Measured on students of 3 and 6 layers: at the ½ of the SmoothQuant paper activations are still the larger error, at
# 0.85 the weights are. Where the largest channels are split, smoothing has less to do.
_ALPHA, _ALPHA_WHERE_SPLIT = 0.65, 0.45


@dataclass(frozen=True)
class Int8Settings:
    """One way to quantize a model to int8.

    Attributes:
        name: What the manifest and the report call it.
        calibrated: Whether channels are smoothed, and the largest split, by the activations on calibration texts.
        gptq_rounding: Whether weights are rounded so that products stay near, by the same activations.
        float_nodes: The names of the products that stay in float.
        product_quantized_tables: Whether token tables are product-quantized instead of stored in int8 rows.
    """

    name: str
    calibrated: bool = False
    gptq_rounding: bool = False
    float_nodes: tuple[str, ...] = ()
    product_quantized_tables: bool = False


# The settings that the quality gate tries, the least careful first.
INT8_LADDER = (Int8Settings("7-bit weights", calibrated=True, gptq_rounding=True),)


def quantize_to_int8(
    source: Path, target: Path, settings: Int8Settings, activations: Activations | None = None
) -> None:
    """Write a quantized copy of an ONNX model: embedding tables by row, products with weights as the settings say.

    Weights have a scale for each output. Attention becomes one node where ONNX Runtime has a kernel for it. Weights
    that are multiplied head by head, once a text, are stored in int8 and multiplied in float.

    Args:
        source: The file of the float model.
        target: The file to write.
        settings: How to quantize.
        activations: The statistics of the float model; used only if the settings are calibrated or round by GPTQ.
    """
    model = onnx.load(source)
    graph = model.graph
    del graph.value_info[:]
    statistics: Activations = activations or {}
    if settings.calibrated:
        statistics = _smooth_and_split(graph, statistics)
    if settings.product_quantized_tables:
        quantize_tables_by_product(graph)
    quantize_embeddings(model)
    quantize_head_matrices(graph)
    fuse_attention(model)
    prevent_skip_layer_norm_fusion(graph)
    products = constant_products(graph)
    quantizable = {product.node for product in products}
    others = {node.name for node in graph.node if node.op_type == "MatMul" and node.name not in quantizable}
    _quantize_products(model, target, {*settings.float_nodes, *others})
    if settings.gptq_rounding:
        quantized = onnx.load(target)
        if round_weights(quantized.graph, graph, products, statistics):
            onnx.save(quantized, target)


def _smooth_and_split(graph: onnx.GraphProto, activations: Activations) -> Activations:
    """Smooth all multiplied values and split those that can be, in place; returns the statistics afterwards."""
    splittable = splittable_values(graph)
    inside = {name: activation for name, activation in activations.items() if name in splittable}
    outside = {name: activation for name, activation in activations.items() if name not in splittable}
    split = split_outliers(graph, splittable, smooth(graph, inside, _ALPHA_WHERE_SPLIT))
    smoothed = split | smooth(graph, outside, _ALPHA)
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
    """The names of the nodes that :func:`quantize_to_int8` turns into int8 products, those with a constant matrix."""
    return [product.node for product in constant_products(onnx.load(source, load_external_data=False).graph)]


def with_float_nodes(settings: Int8Settings, ranked: Sequence[str]) -> Iterator[Int8Settings]:
    """The same settings with 1, 2, 4 … of the most harmful products left in float, up to half of all products.

    Args:
        settings: The settings to start from.
        ranked: The names of the quantizable products, the most harmful first.
    """
    count = 1
    while count <= len(ranked) // 2:
        name = f"{settings.name}, {count} product(s) in float"
        yield replace(settings, name=name, float_nodes=tuple(ranked[:count]))
        count *= 2

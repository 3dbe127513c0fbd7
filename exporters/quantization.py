"""int8 by ONNX Runtime's dynamic quantization, in several degrees of care.

Weights that are multiplied are signed 7-bit or unsigned 8-bit, never signed 8-bit: on x86 without VNNI the product of
unsigned activations with full-range signed weights saturates a 16-bit sum and gives wrong answers, and a student
travels to CPUs other than the one that built it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from amalgam_edge.exporters.embeddings import quantize_by_head, quantize_embeddings
from amalgam_edge.exporters.fused_attention import fuse_attention
from amalgam_edge.exporters.fusible import keep_residuals_apart
from amalgam_edge.exporters.product_quantization import quantize_tables_by_product
from amalgam_edge.exporters.smoothing import products, smooth


@dataclass(frozen=True)
class Quantization:
    """One way to quantize.

    Attributes:
        name: for the manifest and the report.
        per_channel: a scale for each output of a weight matrix rather than one for all.
        unsigned: unsigned 8-bit weights rather than signed 7-bit ones.
        smoothed: activations are made alike in size first; see :mod:`amalgam_edge.exporters.smoothing`.
        float_nodes: products left in float.
        product_tables: tables of tokens by product quantization rather than in int8 rows.
    """

    name: str
    per_channel: bool = False
    unsigned: bool = False
    smoothed: bool = False
    float_nodes: tuple[str, ...] = ()
    product_tables: bool = False


LADDER = (
    Quantization("signed 7-bit weights", per_channel=True),
    Quantization("signed 7-bit weights, smoothed activations", per_channel=True, smoothed=True),
    Quantization("unsigned 8-bit weights, smoothed activations", per_channel=True, unsigned=True, smoothed=True),
)


def quantize(
    source: Path, target: Path, how: Quantization, ranges: Mapping[str, np.ndarray] = MappingProxyType({})
) -> None:
    """Write a quantized copy of an ONNX model: embedding tables by row, products with weights as ``how`` says.

    Attention becomes one node where ONNX Runtime has a kernel for it. Weights that are multiplied head by head, once a
    text, are stored in int8 and multiplied in float.

    Args:
        source: the float model.
        target: the quantized one.
        how: in which way.
        ranges: what :func:`smooth` asks for; read only where ``how`` is smoothed.
    """
    model = onnx.load(source)
    graph = model.graph
    del graph.value_info[:]
    if how.smoothed:
        smooth(graph, ranges)
    if how.product_tables:
        quantize_tables_by_product(graph)
    quantize_embeddings(model)
    quantize_by_head(graph)
    fuse_attention(model)
    keep_residuals_apart(graph)
    matrices = {product.node for product in products(graph)}
    float_nodes = {*how.float_nodes, *(n.name for n in graph.node if n.op_type == "MatMul" and n.name not in matrices)}
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the quantizer recommends a preprocessing that the exporter has done
    try:
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=how.per_channel,
            reduce_range=not how.unsigned,
            weight_type=QuantType.QUInt8 if how.unsigned else QuantType.QInt8,
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

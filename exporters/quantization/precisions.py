"""The ways besides int8 in which a student can be stored: half floats, and weights alone in 8 or 4 bits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from amalgam_edge.exporters.quantization.embeddings import quantize_by_head, quantize_embeddings
from amalgam_edge.exporters.rewrites.fused_attention import fuse_attention
from amalgam_edge.exporters.rewrites.graphs import GraphIndex, add_constant, attribute, replace_nodes

_BLOCK = 32  # weights that share a scale
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy level: activations in int8, scaled block by block


def write_fp16(source: Path, target: Path) -> None:
    """Half floats inside, floats at both ends: half the size, and fast on GPUs."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    onnx.save(convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True), target)


def write_w8(source: Path, target: Path) -> None:
    """Weights in 8 bits, a scale for each block of 32; activations are scaled block by block too."""
    _write_blocks(source, target, bits=8)


def write_q4(source: Path, target: Path) -> None:
    """Weights in 4 bits, a scale for each block of 32."""
    _write_blocks(source, target, bits=4)


# name → (how it is made, in words, and the function that does)
WEIGHT_ONLY: Mapping[str, tuple[str, Callable[[Path, Path], None]]] = MappingProxyType(
    {
        "fp16": ("half floats", write_fp16),
        "w8": ("8-bit weights by blocks of 32", write_w8),
        "q4": ("4-bit weights by blocks of 32", write_q4),
    }
)


def _write_blocks(source: Path, target: Path, bits: int) -> None:
    model = onnx.load(source)
    del model.graph.value_info[:]
    _unfold_gemm(model.graph)
    quantize_embeddings(model)
    quantize_by_head(model.graph)
    fuse_attention(model)
    loggers = [logging.getLogger(), logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # it tells of every node
    try:
        quantizer = MatMulNBitsQuantizer(
            model, bits=bits, block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8_ACTIVATIONS
        )
        quantizer.process()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    onnx.save(quantizer.model.model, target)


def _unfold_gemm(graph: onnx.GraphProto) -> None:
    """Products with a bias as a product and a sum, since only products are quantized by blocks."""
    index = GraphIndex(graph)
    replacements = {}
    for node in graph.node:
        weight = index.constant(node.input[1]) if node.op_type == "Gemm" and len(node.input) == 3 else None
        if weight is None:
            continue
        matrix = np.ascontiguousarray(weight.T) if attribute(node, "transB", 0) else weight
        name = add_constant(graph, matrix, f"{node.input[1]}_matrix")
        output = node.output[0]
        replacements[output] = [
            helper.make_node("MatMul", [node.input[0], name], [f"{output}_product"], f"{node.name}_product"),
            helper.make_node("Add", [f"{output}_product", node.input[2]], [output], node.name),
        ]
    replace_nodes(graph, replacements)

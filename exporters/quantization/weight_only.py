"""Precisions that need no calibration: half floats, and weights alone in 8 or 4 bits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from amalgam_edge.exporters.quantization.embeddings import quantize_embeddings, quantize_head_matrices
from amalgam_edge.exporters.rewrites.fused_attention import fuse_attention
from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, add_constant, attribute, replace_nodes

_BLOCK_SIZE = 32  # how many weights share a scale
_ACCURACY_LEVEL_INT8 = 4  # of MatMulNBits: activations are rounded to int8, with a scale for each block


def write_fp16(source: Path, target: Path) -> None:
    """Write a copy that computes in float16, with float32 inputs and outputs: half the size, and fast on GPUs."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    onnx.save(convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True), target)


def write_w8(source: Path, target: Path) -> None:
    """Write a copy with weights in 8 bits; each block of 32 weights, or of 32 activations, has its own scale."""
    _write_in_blocks(source, target, bits=8)


def write_q4(source: Path, target: Path) -> None:
    """Write a copy with weights in 4 bits; each block of 32 weights, or of 32 activations, has its own scale."""
    _write_in_blocks(source, target, bits=4)


def _write_in_blocks(source: Path, target: Path, bits: int) -> None:
    model = onnx.load(source)
    del model.graph.value_info[:]
    _split_gemms(model.graph)
    quantize_embeddings(model)
    quantize_head_matrices(model.graph)
    fuse_attention(model)
    loggers = [logging.getLogger(), logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # the quantizer logs a line for every node
    try:
        quantizer = MatMulNBitsQuantizer(
            model, bits=bits, block_size=_BLOCK_SIZE, is_symmetric=True, accuracy_level=_ACCURACY_LEVEL_INT8
        )
        quantizer.process()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    onnx.save(quantizer.model.model, target)


def _split_gemms(graph: onnx.GraphProto) -> None:
    """Write each Gemm as a MatMul and an Add, in place, since the quantizer handles MatMul alone."""
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

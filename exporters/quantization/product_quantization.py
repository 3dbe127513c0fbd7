"""Tables of tokens at two bits a number: product quantization.

A vector is cut into parts of four numbers, and each part is one of 256 (Jégou, Douze and Schmid, 2011): E[id] is put
together from codebook[part, code[id, part]]. Tables are looked up and never multiplied, so this costs a second look-up.
It changes more labels than int8 rows do, and takes a quarter of their room.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from amalgam_edge.exporters.rewrites.graphs import GraphIndex, add_constant, attribute, replace_nodes

PART = 4
N_CODES = 256

_ROUNDS = 10
_SAMPLE = 8192  # rows that codebooks are found from
_SMALLEST_TABLE = 4 * N_CODES  # rows; below that a codebook takes more room than it saves


def quantize_tables_by_product(graph: onnx.GraphProto) -> int:
    """Replace each look-up in a large float table by one in its codes and one in its codebook, in place.

    Returns:
        How many tables were quantized.
    """
    index = GraphIndex(graph)
    replacements = {}
    for node in graph.node:
        table = index.constant(node.input[0]) if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 else None
        if table is None or table.ndim != 2 or table.dtype != np.float32:
            continue
        if len(table) >= _SMALLEST_TABLE and table.shape[1] % PART == 0 and len(index.readers(node.input[0])) == 1:
            replacements[node.output[0]] = _look_up(graph, node, *product_quantize(table))
    replace_nodes(graph, replacements)
    return len(replacements)


def product_quantize(table: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table ``(n_rows, width)`` as codes ``(n_rows, width / 4)`` of uint8 and codebooks ``(width / 4, 256, 4)``.

    Each part's codebook is found by k-means (Lloyd's rounds from rows drawn at random), on a sample of a large table.
    """
    parts = table.reshape(len(table), -1, PART)
    generator = np.random.default_rng(seed)
    sample = generator.permutation(len(table))[:_SAMPLE]
    codes = np.empty(parts.shape[:2], np.uint8)
    codebooks = np.empty((parts.shape[1], N_CODES, PART), np.float32)
    for part in range(parts.shape[1]):
        points = parts[sample, part]
        centres = points[generator.choice(len(points), N_CODES, replace=len(points) < N_CODES)]
        for _ in range(_ROUNDS):
            nearest = _nearest(points, centres)
            counts = np.bincount(nearest, minlength=N_CODES)
            sums = np.stack([np.bincount(nearest, points[:, k], N_CODES) for k in range(PART)], axis=1)
            centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
        codes[:, part], codebooks[part] = _nearest(parts[:, part], centres), centres
    return codes, codebooks


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each point: |p − c|² less |p|², which is common to all."""
    return ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)


def _look_up(graph: onnx.GraphProto, node: NodeProto, codes: np.ndarray, codebooks: np.ndarray) -> list[NodeProto]:
    table, output = node.input[0], node.output[0]
    n_parts = len(codebooks)
    coded = add_constant(graph, codes, f"{table}_codes")
    book = add_constant(graph, codebooks.reshape(-1, PART), f"{table}_codebook")
    offsets = add_constant(graph, np.arange(n_parts, dtype=np.int32) * N_CODES, f"{table}_offsets")
    shape = add_constant(graph, np.array([0, 0, n_parts * PART], np.int64), f"{table}_shape")
    return [
        helper.make_node("Gather", [coded, node.input[1]], [f"{output}_codes"], f"{node.name}_codes"),
        helper.make_node("Cast", [f"{output}_codes"], [f"{output}_cast"], f"{node.name}_cast", to=TensorProto.INT32),
        helper.make_node("Add", [f"{output}_cast", offsets], [f"{output}_rows"], f"{node.name}_rows"),
        helper.make_node("Gather", [book, f"{output}_rows"], [f"{output}_parts"], f"{node.name}_parts"),
        helper.make_node("Reshape", [f"{output}_parts", shape], [output], node.name),
    ]

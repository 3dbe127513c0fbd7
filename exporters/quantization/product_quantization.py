"""Product quantization of embedding tables: two bits a number (Jégou, Douze and Schmid, IEEE TPAMI 2011).

A vector is cut into parts of four numbers, and each part is replaced by the nearest of 256 centroids, so that E[id] is
put together from codebook[part, code[id, part]]. Tables are looked up and never multiplied, so that this costs a second
look-up. It takes a quarter of the room of int8 rows, and changes more labels than they do.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, add_constant, attribute, replace_nodes

PART_WIDTH = 4  # how many numbers share a code
N_CENTROIDS = 256  # of each part: a code is one byte

_KMEANS_ROUNDS = 10
_SAMPLE_SIZE = 8192  # how many rows the centroids are found from
_SMALLEST_TABLE = 4 * N_CENTROIDS  # rows; for fewer a codebook takes more room than it saves


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
        if (
            len(table) >= _SMALLEST_TABLE
            and table.shape[1] % PART_WIDTH == 0
            and len(index.readers(node.input[0])) == 1
        ):
            replacements[node.output[0]] = _lookup_nodes(graph, node, *product_quantize(table))
    replace_nodes(graph, replacements)
    return len(replacements)


def product_quantize(table: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a table ``(n_rows, width)``.

    The centroids of each part are found by k-means (Lloyd's algorithm, started from rows drawn at random), on a sample
    of the rows if there are many.

    Returns:
        Codes of uint8, ``(n_rows, width / 4)``, and codebooks of float32, ``(width / 4, 256, 4)``.
    """
    parts = table.reshape(len(table), -1, PART_WIDTH)
    generator = np.random.default_rng(seed)
    sample = generator.permutation(len(table))[:_SAMPLE_SIZE]
    codes = np.empty(parts.shape[:2], np.uint8)
    codebooks = np.empty((parts.shape[1], N_CENTROIDS, PART_WIDTH), np.float32)
    for part in range(parts.shape[1]):
        points = parts[sample, part]
        start = generator.choice(len(points), N_CENTROIDS, replace=len(points) < N_CENTROIDS)
        codebooks[part] = _kmeans(points, points[start])
        codes[:, part] = _nearest(parts[:, part], codebooks[part])
    return codes, codebooks


def _kmeans(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Move the centroids, ``(256, 4)``, to the means of the points nearest to each; one without points stays."""
    for _ in range(_KMEANS_ROUNDS):
        nearest = _nearest(points, centroids)
        counts = np.bincount(nearest, minlength=N_CENTROIDS)
        sums = np.stack([np.bincount(nearest, points[:, k], N_CENTROIDS) for k in range(PART_WIDTH)], axis=1)
        means = sums / np.maximum(counts, 1)[:, None]
        centroids = np.where(counts[:, None] > 0, means, centroids).astype(np.float32)
    return centroids


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each point, by |p − c|² − |p|²: the last term is the same for all centroids."""
    return ((centroids**2).sum(axis=1) - 2 * points @ centroids.T).argmin(axis=1)


def _lookup_nodes(graph: onnx.GraphProto, node: NodeProto, codes: np.ndarray, codebooks: np.ndarray) -> list[NodeProto]:
    table, output = node.input[0], node.output[0]
    n_parts = len(codebooks)
    coded = add_constant(graph, codes, f"{table}_codes")
    book = add_constant(graph, codebooks.reshape(-1, PART_WIDTH), f"{table}_codebook")
    offsets = add_constant(graph, np.arange(n_parts, dtype=np.int32) * N_CENTROIDS, f"{table}_offsets")
    shape = add_constant(graph, np.array([0, 0, n_parts * PART_WIDTH], np.int64), f"{table}_shape")
    return [
        helper.make_node("Gather", [coded, node.input[1]], [f"{output}_codes"], f"{node.name}_codes"),
        helper.make_node("Cast", [f"{output}_codes"], [f"{output}_cast"], f"{node.name}_cast", to=TensorProto.INT32),
        helper.make_node("Add", [f"{output}_cast", offsets], [f"{output}_rows"], f"{node.name}_rows"),
        helper.make_node("Gather", [book, f"{output}_rows"], [f"{output}_parts"], f"{node.name}_parts"),
        helper.make_node("Reshape", [f"{output}_parts", shape], [output], node.name),
    ]

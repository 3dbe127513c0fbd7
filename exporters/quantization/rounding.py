"""Round weights so that products stay near the float ones, rather than the weights themselves (GPTQ).

The weights of an output are rounded one after another, and the error of each is made up for by those that are still to
be rounded, as far as their channels correlate on calibration texts (Frantar et al., GPTQ, 2023, arXiv 2210.17323, after
Hassibi and Stork, 1993).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from amalgam_edge.exporters.quantization.activations import Activations, Product

_DAMPING = 0.01  # of the mean diagonal, added to it; keeps the Hessian invertible where channels hardly vary
_BLOCK_SIZE = 128  # rows whose errors are spread over all later rows at once

LEVELS = (-64, 64)  # the lowest and the highest number of the quantizer's signed 7-bit weights


def round_weights(
    quantized: onnx.GraphProto, original: onnx.GraphProto, products: list[Product], activations: Activations
) -> int:
    """Round the weights of a quantized graph anew, at the scales that they have, in place.

    Args:
        quantized: The graph as ONNX Runtime's quantizer left it.
        original: The graph with the float weights.
        products: The products of the original.
        activations: The statistics of the multiplied values; weights that multiply any other value stay as they are.

    Returns:
        How many matrices were rounded.
    """
    tensors = {tensor.name: tensor for tensor in quantized.initializer}
    rounded = 0
    for product in products:
        tensor = tensors.get(f"{product.weight}_quantized")
        if tensor is None or product.source not in activations:
            continue
        scale = numpy_helper.to_array(tensors[f"{product.weight}_scale"]).astype(np.float64)
        matrix = product.matrix(original).astype(np.float64)
        levels = round_matrix(matrix, activations[product.source].gram, scale)
        tensor.CopyFrom(numpy_helper.from_array(levels, tensor.name))
        rounded += 1
    return rounded


def round_matrix(matrix: np.ndarray, gram: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Find integer levels q for which X · q · scale is near X · matrix.

    Args:
        matrix: The float weights, ``(n_inputs, n_outputs)`` of float64.
        gram: Xᵀ X, ``(n_inputs, n_inputs)``.
        scale: The scale of each output, ``(n_outputs,)``.

    Returns:
        The levels, ``(n_inputs, n_outputs)`` of int8, from -64 to 64.
    """
    order, update = _order_and_update_matrix(gram)
    remaining = matrix[order].copy()
    levels = np.empty_like(remaining)
    for start in range(0, len(remaining), _BLOCK_SIZE):
        block = slice(start, min(start + _BLOCK_SIZE, len(remaining)))
        errors = np.empty_like(remaining[block])
        for row in range(block.start, block.stop):
            levels[row] = np.clip(np.round(remaining[row] / scale), *LEVELS)
            error = (remaining[row] - levels[row] * scale) / update[row, row]
            remaining[row + 1 : block.stop] -= np.outer(update[row, row + 1 : block.stop], error)
            errors[row - start] = error
        remaining[block.stop :] -= update[block, block.stop :].T @ errors
    result = np.empty(levels.shape, np.int8)
    result[order] = levels
    return result


def _order_and_update_matrix(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order in which rows are rounded, and how the error of each changes the later ones.

    The largest channels come first, while most rows are left to make up for their errors. The second is the upper
    Cholesky factor of the inverse Hessian in that order.
    """
    hessian = gram.astype(np.float64)
    diagonal = np.diag_indices_from(hessian)
    mean = hessian[diagonal].mean()
    hessian[diagonal] += _DAMPING * (mean if mean > 0 else 1.0)
    order = np.argsort(-hessian[diagonal], kind="stable")
    return order, np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T

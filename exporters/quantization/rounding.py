"""Weights rounded so that products stay near, rather than the weights: what rounding one spoils, the next make up for.

Weights of one output are rounded one after another; each error is spread over those that are still to come, by how
their channels go together on texts (GPTQ, Frantar et al., 2023, arXiv 2210.17323; Hassibi & Stork, 1993).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from amalgam_edge.exporters.quantization.activations import Activations, Product

_DAMPING = 0.01  # of the mean diagonal: keeps channels that hardly vary from being taken for others
_BLOCK = 128

LEVELS = (-64, 64)  # of the quantizer's signed 7-bit weights


def round_weights(
    quantized: onnx.GraphProto, original: onnx.GraphProto, every: list[Product], activations: Activations
) -> int:
    """Round the weights of a quantized graph again, at the scales that they have, in place.

    Args:
        quantized: as ONNX Runtime's quantizer leaves it.
        original: with the float weights.
        every: products of the original.
        activations: of what is multiplied; the weights of other products stay as they are.

    Returns:
        How many matrices there were.
    """
    tensors = {tensor.name: tensor for tensor in quantized.initializer}
    rounded = 0
    for product in every:
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
    """Levels q for which X · q · scale is near X · matrix.

    Args:
        matrix: ``(n_inputs, n_outputs)`` of float64.
        gram: Xᵀ X, ``(n_inputs, n_inputs)``.
        scale: of each output, ``(n_outputs,)``.

    Returns:
        ``(n_inputs, n_outputs)`` of int8.
    """
    hessian = gram.astype(np.float64)
    diagonal = np.diag_indices_from(hessian)
    mean = hessian[diagonal].mean()
    hessian[diagonal] += _DAMPING * (mean if mean > 0 else 1.0)
    order = np.argsort(-hessian[diagonal], kind="stable")  # what matters most while there is most to make up with
    spread = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    left = matrix[order].copy()
    found = np.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(left)))
        errors = np.empty_like(left[block])
        for row in range(block.start, block.stop):
            found[row] = np.clip(np.round(left[row] / scale), *LEVELS)
            error = (left[row] - found[row] * scale) / spread[row, row]
            left[row + 1 : block.stop] -= np.outer(spread[row, row + 1 : block.stop], error)
            errors[row - start] = error
        left[block.stop :] -= spread[block, block.stop :].T @ errors
    result = np.empty(found.shape, np.int8)
    result[order] = found
    return result

"""Principal component analysis. Pure functions on arrays."""

from __future__ import annotations

import numpy as np

_ROWS_AT_ONCE = 65_536


def principal_components(vectors: np.ndarray, width: int) -> np.ndarray:
    """The projections of centred vectors onto their first principal directions, ``(n, min(width, m))`` of float32.

    The sign of each direction is chosen so that its largest entry is positive. Computed in float64, block by block.

    Args:
        vectors: Vectors ``(n, m)``.
        width: The number of directions, by decreasing variance.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    blocks = [vectors[first : first + _ROWS_AT_ONCE] for first in range(0, len(vectors), _ROWS_AT_ONCE)]
    scatter = sum((block - mean).T @ (block - mean) for block in blocks)
    _, directions = np.linalg.eigh(scatter)  # by ascending variance
    kept = directions[:, ::-1][:, :width]
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])  # eigh leaves the sign open
    return np.concatenate([((block - mean) @ kept).astype(np.float32) for block in blocks])

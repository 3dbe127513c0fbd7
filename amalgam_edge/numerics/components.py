"""Principal components. Pure functions on arrays."""

from __future__ import annotations

import numpy as np

_ROWS_AT_ONCE = 65_536


def principal_components(vectors: np.ndarray, width: int) -> np.ndarray:
    """Vectors ``(n, m)``, less their mean, along what they vary in most: ``(n, min(width, m))`` of float32.

    A direction's sign is that of its largest entry. Computed in float64, some rows at a time.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    blocks = [vectors[first : first + _ROWS_AT_ONCE] for first in range(0, len(vectors), _ROWS_AT_ONCE)]
    scatter = sum((block - mean).T @ (block - mean) for block in blocks)
    _, directions = np.linalg.eigh(scatter)  # in ascending order
    kept = directions[:, ::-1][:, :width]
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])  # else the sign is chance
    return np.concatenate([((block - mean) @ kept).astype(np.float32) for block in blocks])

"""Passes where they count: as many as it takes to tell which teacher is the most certain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FIRST_PASSES = 3


def next_passes(pass_logits: Sequence[np.ndarray], passes: np.ndarray, most: int) -> np.ndarray:
    return passes

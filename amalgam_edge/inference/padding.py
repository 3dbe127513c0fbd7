"""Token ids of several texts as one padded array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pad_batch(token_ids: Sequence[Sequence[int]], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill texts up on the right to the length of the longest, or to one token where all are empty.

    Args:
        token_ids: Token ids of at least one text.
        pad_token_id: Token id of the padding, which ``attention_mask`` excludes.

    Returns:
        ``input_ids`` and ``attention_mask``, both ``(n_texts, n_tokens)`` of int64.
    """
    width = max(1, *(len(ids) for ids in token_ids))
    input_ids = np.full((len(token_ids), width), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(token_ids), width), dtype=np.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask

"""One vector for each text, from a model's runs over batches of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.inference.batches import batches_by_length

ReadVectors = Callable[[Any, torch.Tensor], torch.Tensor]


def text_vectors(
    model: PreTrainedModel, input_ids: Sequence[list[int]], read: ReadVectors, *, pad_token_id: int, batch_tokens: int
) -> np.ndarray:
    """Run a model with dropout off, on the device that it is on, and read one vector for each text.

    Args:
        model: Model; it is put into evaluation mode.
        input_ids: Token ids of at least one text.
        read: Function from the model's output and the attention mask ``(n, n_tokens)`` of a batch to the batch's
            vectors ``(n, width)``.
        pad_token_id: Token id of the padding.
        batch_tokens: Largest number of tokens that run together, padding included.

    Returns:
        ``(n_texts, width)`` of float32, in the order of ``input_ids``.
    """
    model.eval()
    vectors, rows = [], []
    with torch.inference_mode():
        for batch in batches_by_length(input_ids, pad_token_id=pad_token_id, batch_tokens=batch_tokens):
            ids, mask = (torch.from_numpy(array).to(model.device) for array in (batch.input_ids, batch.attention_mask))
            vectors.append(read(model(input_ids=ids, attention_mask=mask), mask).float().cpu().numpy())
            rows.append(batch.rows)
    joined: np.ndarray = np.concatenate(vectors)[np.argsort(np.concatenate(rows))]
    return joined

"""One vector a text, read from a model's runs over batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.inference.batches import batches_by_length

Read = Callable[[Any, torch.Tensor], torch.Tensor]


def text_vectors(
    model: PreTrainedModel, input_ids: Sequence[list[int]], read: Read, *, pad_token_id: int, batch_tokens: int
) -> np.ndarray:
    """Run a model, dropout off, on the device that it is on: ``(n_texts, width)`` of float32, a row a text.

    Args:
        model: put into evaluation mode.
        input_ids: token ids of each text; at least one text.
        read: (what the model returns, attention mask ``(n, n_tokens)``) → the batch's vectors, ``(n, width)``.
        pad_token_id: fills texts up.
        batch_tokens: tokens that run together.
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

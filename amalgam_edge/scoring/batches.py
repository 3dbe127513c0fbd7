"""Batches of like lengths, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from amalgam_edge.padding import pad_batch


@dataclass(frozen=True)
class Batch:
    """Texts that run together.

    Attributes:
        rows: their positions among the texts that were given, ``(n_texts,)``.
        input_ids: ``(n_texts, n_tokens)`` of int64, padded on the right.
        attention_mask: ``(n_texts, n_tokens)`` of int64.
    """

    rows: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray


def batches_by_length(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int, batch_size: int
) -> Iterator[Batch]:
    """Tokenize texts and yield them in batches, longest first (so memory is at its highest at once)."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    order = np.argsort([-len(ids) for ids in encoded], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        input_ids, attention_mask = pad_batch([encoded[row] for row in rows], tokenizer.pad_token_id)
        yield Batch(rows, input_ids, attention_mask)

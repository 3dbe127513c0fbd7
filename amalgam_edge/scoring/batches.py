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


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """Token ids of each text, cut to ``max_length``."""
    return tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]


def batches_by_length(
    encoded: Sequence[Sequence[int]], *, pad_token_id: int, batch_tokens: int, rows: np.ndarray | None = None
) -> Iterator[Batch]:
    """Yield texts in batches of like lengths, longest first (so memory is at its highest at once).

    Args:
        encoded: token ids of each text.
        pad_token_id: fills texts up on the right.
        batch_tokens: the most tokens a batch may have, padding included; a longer text runs alone.
        rows: the texts to run; all of them by default.
    """
    rows = np.arange(len(encoded)) if rows is None else rows
    rows = rows[np.argsort([-len(encoded[row]) for row in rows.tolist()], kind="stable")]
    while len(rows):
        fitting = max(1, batch_tokens // max(1, len(encoded[int(rows[0])])))
        input_ids, attention_mask = pad_batch([encoded[row] for row in rows[:fitting].tolist()], pad_token_id)
        yield Batch(rows[:fitting], input_ids, attention_mask)
        rows = rows[fitting:]

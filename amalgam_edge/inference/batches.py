"""Batches of like lengths, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from amalgam_edge.inference.padding import pad_batch

CPU_BATCH_TOKENS = 1024  # tokens in one batch; larger batches leave the caches of a CPU
_RUNS_TO_A_BATCH = 16  # a run of one token costs a sixteenth of a run of a full batch, or so


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
    lengths = np.array([len(encoded[row]) for row in rows.tolist()], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for end in cheapest_cuts(lengths[order], batch_tokens):
        chosen = rows[order[start:end]]
        input_ids, attention_mask = pad_batch([encoded[row] for row in chosen.tolist()], pad_token_id)
        yield Batch(chosen, input_ids, attention_mask)
        start = end


def cheapest_cuts(lengths: np.ndarray, batch_tokens: int) -> list[int]:
    """Where to cut texts into batches so that they cost the least, by dynamic programming.

    A batch costs its tokens, padding included, and what any run costs beside, put at a sixteenth of the budget.

    Args:
        lengths: of the texts in tokens, longest first, ``(n_texts,)``.
        batch_tokens: the most tokens a batch of several texts may have.

    Returns:
        The end of each batch.
    """
    widths = np.maximum(lengths, 1)
    costs = np.zeros(len(lengths) + 1)
    begins = np.zeros(len(lengths) + 1, dtype=np.int64)
    begin = 0
    for end in range(1, len(lengths) + 1):
        while begin < end - 1 and (end - begin) * widths[begin] > batch_tokens:
            begin += 1
        counts = np.arange(1, end - begin + 1)  # texts of a last batch
        cost = (costs[begin:end] + counts[::-1] * widths[begin:end])[::-1]
        cheapest = int(cost.argmin())
        costs[end] = cost[cheapest] + batch_tokens / _RUNS_TO_A_BATCH
        begins[end] = end - counts[cheapest]
    ends = [len(lengths)] if len(lengths) else []
    while ends and begins[ends[-1]]:
        ends.append(int(begins[ends[-1]]))
    return ends[::-1]

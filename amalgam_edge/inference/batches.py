"""Batches of texts of similar lengths, cut so that padding and the cost of each run stay small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from amalgam_edge.inference.padding import pad_batch

CPU_BATCH_TOKENS = 1024  # tokens in one batch; larger batches leave the caches of a CPU
_RUN_COST = 1 / 16  # of any run, beside its tokens, as a share of a full batch; an estimate


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of texts that run together.

    Attributes:
        rows: Positions of the texts among those that were to be batched, ``(n_texts,)``.
        input_ids: Token ids, ``(n_texts, n_tokens)`` of int64, padded on the right.
        attention_mask: 1 for tokens and 0 for padding, ``(n_texts, n_tokens)`` of int64.
    """

    rows: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """The token ids of each text, truncated to ``max_length`` tokens."""
    return tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]


def batches_by_length(
    encoded: Sequence[Sequence[int]], *, pad_token_id: int, batch_tokens: int, rows: np.ndarray | None = None
) -> Iterator[TokenBatch]:
    """Yield texts in batches of similar lengths, longest first, so that too little memory shows in the first batch.

    Args:
        encoded: Token ids of each text.
        pad_token_id: Token id that fills up shorter texts on the right.
        batch_tokens: Largest number of tokens in a batch, padding included. A text that is longer runs alone.
        rows: Positions of the texts to run; by default all.
    """
    rows = np.arange(len(encoded)) if rows is None else rows
    lengths = np.array([len(encoded[row]) for row in rows.tolist()], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for end in cheapest_cuts(lengths[order], batch_tokens):
        chosen = rows[order[start:end]]
        input_ids, attention_mask = pad_batch([encoded[row] for row in chosen.tolist()], pad_token_id)
        yield TokenBatch(chosen, input_ids, attention_mask)
        start = end


def cheapest_cuts(lengths: np.ndarray, batch_tokens: int) -> list[int]:
    """Find the batches of least total cost, by dynamic programming over where a batch ends.

    A batch of n texts costs n times the tokens of its longest text, and ``batch_tokens`` / 16 for the run itself.

    Args:
        lengths: Number of tokens of each text, longest first, ``(n_texts,)``.
        batch_tokens: Largest number of tokens in a batch of several texts, padding included.

    Returns:
        For each batch, the position after its last text.
    """
    widths = np.maximum(lengths, 1)
    costs = np.zeros(len(lengths) + 1)
    begins = np.zeros(len(lengths) + 1, dtype=np.int64)
    begin = 0
    for end in range(1, len(lengths) + 1):
        while begin < end - 1 and (end - begin) * widths[begin] > batch_tokens:
            begin += 1
        counts = np.arange(1, end - begin + 1)  # sizes that the last batch may have
        cost = (costs[begin:end] + counts[::-1] * widths[begin:end])[::-1]
        cheapest = int(cost.argmin())
        costs[end] = cost[cheapest] + batch_tokens * _RUN_COST
        begins[end] = end - counts[cheapest]
    ends = [len(lengths)] if len(lengths) else []
    while ends and begins[ends[-1]]:
        ends.append(int(begins[ends[-1]]))
    return ends[::-1]

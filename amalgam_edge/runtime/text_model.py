"""Texts in, logits out: a tokenizer and an ONNX session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amalgam_edge.runtime.session import open_session
from amalgam_edge.runtime.tokens import BatchTokenizer, TokenIds

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

STATIC_BATCH = 256  # texts that a static student reads at once; more leave the caches


class TextModel:
    """An exported classifier with its tokenizer. Safe to call from several threads at once.

    Args:
        model: path of an ONNX model from ``input_ids`` and ``attention_mask`` to ``logits``.
        tokenizer: path of its tokenizer.json.
        max_length: texts are cut to this many tokens.
        pad_token_id: fills batches; it is masked.
        threads: to compute with; by default one a core.
    """

    def __init__(
        self, model: Path, tokenizer: Path, *, max_length: int, pad_token_id: int, threads: int | None = None
    ) -> None:
        self._session = open_session(model, threads)
        self._tokenizer = BatchTokenizer(tokenizer, max_length)
        self.pad_token_id = pad_token_id

    @property
    def n_labels(self) -> int | None:
        """How many logits the model gives; None where it does not say."""
        width = next(output.shape[-1] for output in self._session.get_outputs() if output.name == "logits")
        return width if isinstance(width, int) else None

    def run(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``, in the order of ``texts``.

        Texts run in batches of like length.
        """
        tokens = self.tokenize(texts)
        return self.answer(tokens, batch_size=batch_size), tokens.truncated

    def tokenize(self, texts: Sequence[str]) -> TokenIds:
        """The texts as token ids, cut to the longest input."""
        return self._tokenizer.encode(texts)

    def answer(self, tokens: TokenIds, *, batch_size: int = 32, rows: np.ndarray | None = None) -> np.ndarray:
        """Logits ``(n_rows, n_labels)`` of tokenized texts, or of some rows of them, in the order given."""
        return run_session(self._session, tokens, self.pad_token_id, batch_size, rows)

    def outputs(
        self, texts: Sequence[str], names: Sequence[str], *, batch_size: int = 32
    ) -> Iterator[list[np.ndarray]]:
        """What the model puts out under these names, batch by batch, texts of like length together."""
        tokens = self.tokenize(texts)
        by_length = np.argsort(tokens.lengths, kind="stable")
        yield from _run_batches(self._session, names, tokens, self.pad_token_id, batch_size, by_length)


def run_session(
    session: InferenceSession, tokens: TokenIds, pad_token_id: int, batch_size: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Logits ``(n_rows, n_labels)`` of texts, or of some rows of them, in their order; they run sorted by length."""
    lengths = tokens.lengths if rows is None else tokens.lengths[rows]
    order = np.argsort(lengths, kind="stable")
    sorted_rows = order if rows is None else rows[order]
    answered = _run_batches(session, ["logits"], tokens, pad_token_id, batch_size, sorted_rows)
    sorted_logits = np.concatenate([logits for (logits,) in answered])
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return logits


def _run_batches(
    session: InferenceSession,
    names: Sequence[str],
    tokens: TokenIds,
    pad_token_id: int,
    batch_size: int,
    rows: np.ndarray,
) -> Iterator[list[np.ndarray]]:
    """What the model puts out under these names for these rows, batch by batch, in the order given."""
    for start in range(0, len(rows), batch_size):
        input_ids, attention_mask = tokens.padded(rows[start : start + batch_size], pad_token_id)
        yield session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask})

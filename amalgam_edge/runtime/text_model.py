"""A tokenizer and an ONNX model: texts in, logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from amalgam_edge.runtime.model_runner import LOGITS, ModelRunner
from amalgam_edge.runtime.tokens import BatchTokenizer, TokenIds
from amalgam_edge.storage.own_files import FileContent

ENCODER_BATCH = 32  # most texts in an encoder's batch
STATIC_BATCH = 256  # most texts in a static student's batch; more no longer fit the CPU's caches

# Bounds of the tokens in a batch, for each text that the batch may hold.
_MIN_TOKENS_PER_TEXT = 4
_MAX_TOKENS_PER_TEXT = 16


class TextModel:
    """An exported classifier with its tokenizer. Safe to call from several threads at once.

    Args:
        model: Content of an ONNX model from ``input_ids`` and ``attention_mask`` to ``logits``.
        tokenizer: Content of its tokenizer.json.
        max_length: Tokens to which texts are cut.
        pad_token_id: Token id that fills batches; the attention mask hides it.
        threads: Threads to compute with, at most one per usable core; None for that many.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(
        self,
        model: FileContent,
        tokenizer: FileContent,
        *,
        max_length: int,
        pad_token_id: int,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._runner = ModelRunner(model, threads, device)
        self._tokenizer = BatchTokenizer(tokenizer, max_length)
        self.pad_token_id = pad_token_id

    @property
    def n_labels(self) -> int | None:
        """The number of logits that the model gives; None if its ONNX file does not tell."""
        return self._runner.n_labels

    def run(self, texts: Sequence[str], *, batch_size: int = ENCODER_BATCH) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``, in the order of ``texts``.

        Texts of similar length run together, at most ``batch_size`` at a time.
        """
        tokens = self.tokenize(texts)
        return self.answer(tokens, batch_size=batch_size), tokens.truncated

    def tokenize(self, texts: Sequence[str]) -> TokenIds:
        """The texts as token ids, cut to the model's longest input."""
        return self._tokenizer.encode(texts)

    def answer(
        self, tokens: TokenIds, *, batch_size: int = ENCODER_BATCH, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Logits ``(n_rows, n_labels)`` of tokenized texts, or of those at the positions ``rows``, in that order."""
        return run_model(self._runner, tokens, self.pad_token_id, batch_size, rows)

    def outputs(
        self, texts: Sequence[str], names: Sequence[str], *, batch_size: int = ENCODER_BATCH
    ) -> Iterator[list[np.ndarray]]:
        """The outputs of these names for each batch; texts of similar length run together, so the order changes."""
        tokens = self.tokenize(texts)
        for batch in split_by_length(tokens.lengths, batch_size):
            yield from self._runner.run(names, [_feed(tokens, batch, self.pad_token_id)])


def run_model(
    runner: ModelRunner, tokens: TokenIds, pad_token_id: int, batch_size: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Logits ``(n_rows, n_labels)`` of tokenized texts, or of those at the positions ``rows``, in that order.

    Args:
        runner: Runs the model.
        tokens: The texts as token ids.
        pad_token_id: Token id that fills batches.
        batch_size: Most texts in a batch.
        rows: Positions of the texts to run, ``(n_rows,)``; None for all.
    """
    rows = np.arange(len(tokens.lengths)) if rows is None else rows
    batches = split_by_length(tokens.lengths[rows], batch_size)
    outputs = runner.run([LOGITS], [_feed(tokens, rows[batch], pad_token_id) for batch in batches])
    sorted_logits = np.concatenate([logits for (logits,) in outputs])
    logits = np.empty_like(sorted_logits)
    logits[np.concatenate(batches)] = sorted_logits
    return logits


def split_by_length(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split texts into batches of similar length, the longest first.

    A batch holds up to ``16 × batch_size`` tokens, padding included: more no longer fit the CPU's caches. If there are
    few tokens, a batch holds half of them, so that a second thread has work, but not less than ``4 × batch_size``. The
    split does not depend on the number of threads: int8 logits depend a little on the other texts in the batch, and
    would then differ between machines.

    Args:
        lengths: Tokens of each text, ``(n_texts,)``.
        batch_size: Most texts in a batch.

    Returns:
        Positions of the texts of each batch.
    """
    order = np.argsort(-lengths, kind="stable")
    bounds = _MIN_TOKENS_PER_TEXT * batch_size, _MAX_TOKENS_PER_TEXT * batch_size
    max_tokens = int(np.clip(lengths.sum() // 2, *bounds))
    batches = []
    start = 0
    while start < len(order):
        count = min(batch_size, max(1, max_tokens // max(1, int(lengths[order[start]]))))
        batches.append(order[start : start + count])
        start += count
    return batches


def _feed(tokens: TokenIds, rows: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    """The model's inputs for a batch, the texts at the positions ``rows``."""
    input_ids, attention_mask = tokens.padded(rows, pad_token_id)
    return {"input_ids": input_ids, "attention_mask": attention_mask}

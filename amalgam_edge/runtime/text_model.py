"""Texts in, logits out: a tokenizer and an ONNX model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from amalgam_edge.runtime.model_runner import ModelRunner
from amalgam_edge.runtime.tokens import BatchTokenizer, TokenIds

STATIC_BATCH = 256  # texts that a static student reads at once; more leave the caches

_FEWEST_TOKENS, _MOST_TOKENS = 4, 16  # of a batch, for each text that it may hold


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
        self._runner = ModelRunner(model, threads)
        self._tokenizer = BatchTokenizer(tokenizer, max_length)
        self.pad_token_id = pad_token_id

    @property
    def n_labels(self) -> int | None:
        """How many logits the model gives; None where it does not say."""
        return self._runner.n_labels

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
        return run_model(self._runner, tokens, self.pad_token_id, batch_size, rows)

    def outputs(
        self, texts: Sequence[str], names: Sequence[str], *, batch_size: int = 32
    ) -> Iterator[list[np.ndarray]]:
        """What the model puts out under these names, batch by batch, texts of like length together."""
        tokens = self.tokenize(texts)
        for batch in cut(tokens.lengths, batch_size):
            yield from self._runner.run(names, [_feed(tokens, batch, self.pad_token_id)])


def run_model(
    runner: ModelRunner, tokens: TokenIds, pad_token_id: int, batch_size: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Logits ``(n_rows, n_labels)`` of texts, or of some rows of them, in their order."""
    rows = np.arange(len(tokens.lengths)) if rows is None else rows
    batches = cut(tokens.lengths[rows], batch_size)
    answered = runner.run(["logits"], [_feed(tokens, rows[batch], pad_token_id) for batch in batches])
    sorted_logits = np.concatenate([logits for (logits,) in answered])
    logits = np.empty_like(sorted_logits)
    logits[np.concatenate(batches)] = sorted_logits
    return logits


def cut(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Texts in batches of like length, the longest first.

    A batch holds up to 16 tokens for each text that it may hold, padding included: more leave the caches. It holds less
    where that would leave a second thread without work. The number of threads has no say: int8 answers move a little
    with the texts that run beside them, and would then differ between machines.

    Args:
        lengths: tokens of each text, ``(n_texts,)``.
        batch_size: the most texts in a batch.

    Returns:
        Positions of the texts of each batch.
    """
    order = np.argsort(-lengths, kind="stable")
    most = int(np.clip(lengths.sum() // 2, _FEWEST_TOKENS * batch_size, _MOST_TOKENS * batch_size))
    batches = []
    start = 0
    while start < len(order):
        count = min(batch_size, max(1, most // max(1, int(lengths[order[start]]))))
        batches.append(order[start : start + count])
        start += count
    return batches


def _feed(tokens: TokenIds, rows: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    input_ids, attention_mask = tokens.padded(rows, pad_token_id)
    return {"input_ids": input_ids, "attention_mask": attention_mask}

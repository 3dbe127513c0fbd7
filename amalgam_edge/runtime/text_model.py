"""Texts in, logits out: a tokenizer and an ONNX session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from amalgam_edge.errors import AmalgamError
from amalgam_edge.padding import pad_batch
from amalgam_edge.runtime.session import open_session


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
        self._pad_token_id = pad_token_id
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise AmalgamError(f"{tokenizer}: cannot be read as a tokenizer ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    @property
    def n_labels(self) -> int | None:
        """How many logits the model gives; None where it does not say."""
        width = next(output.shape[-1] for output in self._session.get_outputs() if output.name == "logits")
        return width if isinstance(width, int) else None

    def run(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``, in the order of ``texts``.

        Texts run in batches of like length.
        """
        encodings = self._encode(texts)
        truncated = np.array([bool(encoding.overflowing) for encoding in encodings])
        rows, answered = zip(*self._batches(encodings, ["logits"], batch_size), strict=True)
        sorted_logits = np.concatenate([logits for (logits,) in answered])
        logits = np.empty_like(sorted_logits)
        logits[np.concatenate(rows)] = sorted_logits
        return logits, truncated

    def outputs(
        self, texts: Sequence[str], names: Sequence[str], *, batch_size: int = 32
    ) -> Iterator[list[np.ndarray]]:
        """What the model puts out under these names, batch by batch, texts of like length together."""
        for _, values in self._batches(self._encode(texts), names, batch_size):
            yield values

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        # Half a surrogate pair, which JSON may hold, is no text: it becomes a question mark.
        encodings = self._tokenizer.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])
        if not encodings:
            raise AmalgamError("no texts given")
        return encodings

    def _batches(
        self, encodings: Sequence[Encoding], names: Sequence[str], batch_size: int
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """The rows of each batch, and what the model puts out for them."""
        order = np.argsort([len(encoding.ids) for encoding in encodings], kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            input_ids, attention_mask = pad_batch([encodings[row].ids for row in rows], self._pad_token_id)
            yield rows, self._session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask})

"""A cascade of two models: a static student answers the texts of which it is sure, an encoder all others.

Both read the same tokens, so that texts are tokenized once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.model_runner import ModelRunner
from amalgam_edge.runtime.text_model import STATIC_BATCH, TextModel, run_model
from amalgam_edge.storage.own_files import FileContent


class CascadeModel:
    """Two exported classifiers behind one tokenizer. Safe to call from several threads at once.

    The static student runs on the CPU, wherever the encoder does: it looks up and adds, which takes less time than
    copying its texts to a GPU.

    Args:
        encoder: Answers the texts of which the static student is not sure.
        static: Content of the static student's ONNX model, which has the encoder's tokens and labels.
        threshold: Probability of the likeliest label from which on the static student is sure.
        threads: Threads of the static student, at most one per usable core; None for that many.
    """

    def __init__(self, encoder: TextModel, static: FileContent, threshold: float, threads: int | None = None) -> None:
        self._encoder = encoder
        self._static = ModelRunner(static, threads)
        self._threshold = threshold

    def run(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``, in the order of ``texts``.

        Args:
            texts: At least one text.
            batch_size: Most texts in one of the encoder's batches.
        """
        tokens = self._encoder.tokenize(texts)
        logits = run_model(self._static, tokens, self._encoder.pad_token_id, STATIC_BATCH)
        unsure = np.flatnonzero(~is_sure(logits, self._threshold))
        if len(unsure):
            logits[unsure] = self._encoder.answer(tokens, batch_size=batch_size, rows=unsure)
        return logits, tokens.truncated


def open_cascade(
    bundle: Bundle, encoder: TextModel, *, enabled: bool | None = None, threads: int | None = None
) -> CascadeModel | None:
    """The bundle's cascade; None if it is disabled, or the bundle has none and ``enabled`` is None.

    Args:
        bundle: The bundle; its static student's file is checked by SHA-256.
        encoder: The bundle's encoder, already loaded.
        enabled: Whether to use the cascade; None for whenever the bundle has one.
        threads: Threads of the static student, at most one per usable core; None for that many.

    Raises:
        AmalgamError: The cascade is enabled but the bundle has none, or its file is damaged.
    """
    if enabled is False or (enabled is None and bundle.cascade is None):
        return None
    if bundle.cascade is None:
        raise AmalgamError(
            f"{bundle.source}: it holds no cascade; build it with --cascade, or leave --cascade out here"
        )
    return CascadeModel(encoder, bundle.read(bundle.cascade.file), bundle.cascade.threshold, threads)


def confidence(logits: np.ndarray) -> np.ndarray:
    """Probability of the likeliest label ``(n_texts,)``, from logits ``(n_texts, n_labels)``."""
    return softmax(logits.astype(np.float64)).max(axis=-1)


def is_sure(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Whether the likeliest label has at least this probability, ``(n_texts,)`` of bool; false for NaN."""
    return confidence(logits) >= threshold

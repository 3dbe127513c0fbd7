"""A cascade: a static student answers where it is sure, an encoder the rest; both read the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.model_runner import ModelRunner
from amalgam_edge.runtime.text_model import STATIC_BATCH, TextModel, run_model


class CascadeModel:
    """Two exported classifiers behind one tokenizer. Safe to call from several threads at once.

    Args:
        encoder: answers where the static student is not sure.
        static: path of the static student's ONNX model, over the same tokens and labels.
        threshold: the static student is sure where its likeliest label has at least this probability.
        threads: that the static student computes with; by default one a core.
    """

    def __init__(self, encoder: TextModel, static: Path, threshold: float, threads: int | None = None) -> None:
        self._encoder = encoder
        self._static = ModelRunner(static, threads)
        self._threshold = threshold

    def run(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``, in the order of ``texts``.

        Texts are tokenized once; ``batch_size`` is the encoder's.
        """
        tokens = self._encoder.tokenize(texts)
        logits = run_model(self._static, tokens, self._encoder.pad_token_id, STATIC_BATCH)
        unsure = np.flatnonzero(~is_sure(logits, self._threshold))
        if len(unsure):
            logits[unsure] = self._encoder.answer(tokens, batch_size=batch_size, rows=unsure)
        return logits, tokens.truncated


def open_cascade(
    bundle: Bundle, encoder: TextModel, *, wanted: bool | None = None, threads: int | None = None
) -> CascadeModel | None:
    """The bundle's cascade over an encoder that is open already; None where there is none, or it is not wanted.

    Args:
        bundle: whose static student is checked against its SHA-256.
        encoder: of the same bundle.
        wanted: None takes the cascade where the bundle has one.
        threads: that the static student computes with.

    Raises:
        AmalgamError: it is wanted but the bundle has none, or its file is damaged.
    """
    if wanted is False or (wanted is None and bundle.cascade is None):
        return None
    if bundle.cascade is None:
        raise AmalgamError(
            f"{bundle.folder}: it holds no cascade; build it with --cascade, or leave --cascade out here"
        )
    return CascadeModel(encoder, bundle.file(bundle.cascade.file), bundle.cascade.threshold, threads)


def confidence(logits: np.ndarray) -> np.ndarray:
    """The probability of the likeliest label, ``(n_texts,)``, of logits ``(n_texts, n_labels)``."""
    return softmax(logits.astype(np.float64)).max(axis=-1)


def is_sure(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Where the likeliest label has at least this probability, ``(n_texts,)`` of bool; NaN is never sure."""
    return confidence(logits) >= threshold

"""A cascade of two models: a static student answers the texts of which it is sure, an encoder all others.

Both read the same tokens, so that texts are tokenized once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SOFTMAX, Head, Heads
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
        threshold: Confidence from which on the static student is sure, see :func:`confidence`.
        heads: The heads that both answer.
        threads: Threads of the static student, at most one per usable core; None for that many.
    """

    def __init__(
        self, encoder: TextModel, static: FileContent, threshold: float, heads: Heads, threads: int | None = None
    ) -> None:
        self._encoder = encoder
        self._static = ModelRunner(static, threads)
        self._threshold = threshold
        self._heads = heads

    def run(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``, in the order of ``texts``.

        Args:
            texts: At least one text.
            batch_size: Most texts in one of the encoder's batches.
        """
        tokens = self._encoder.tokenize(texts)
        logits = run_model(self._static, tokens, self._encoder.pad_token_id, STATIC_BATCH)
        unsure = np.flatnonzero(~is_sure(logits, self._threshold, self._heads))
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
    return CascadeModel(encoder, bundle.read(bundle.cascade.file), bundle.cascade.threshold, bundle.heads, threads)


def confidence(logits: np.ndarray, heads: Heads) -> np.ndarray:
    """How sure a model is of its answers in all heads ``(n_texts,)``, from logits ``(n_texts, n_labels)``.

    It is the lowest over the heads: of a softmax head the probability of its likeliest label, of a sigmoid head that of
    the answer, yes or no, to the label of which it is least sure.
    """
    parts = zip(heads, heads.split(logits), strict=True)
    return np.min([_confidence_of_head(head, part) for head, part in parts], axis=0)


def _confidence_of_head(head: Head, logits: np.ndarray) -> np.ndarray:
    probabilities = head.probabilities(logits)
    if head.activation == SOFTMAX:
        return probabilities.max(axis=-1)
    return np.where(head.holds(probabilities), probabilities, 1.0 - probabilities).min(axis=-1)


def is_sure(logits: np.ndarray, threshold: float, heads: Heads) -> np.ndarray:
    """Whether a model is this confident in all heads, ``(n_texts,)`` of bool; false for NaN."""
    return confidence(logits, heads) >= threshold

"""Features of a corpus: a vector for each text from an encoder before any training, computed once and kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.batches import CPU_BATCH_TOKENS, encode
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.inference.vectors import text_vectors
from amalgam_edge.models.loading import fingerprint
from amalgam_edge.progress import Advance
from amalgam_edge.scoring.hidden_states import HiddenStore, fill
from amalgam_edge.scoring.scores_manifest import ScoreKey

FEATURES = "features"


def feature_key(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> ScoreKey:
    """The key of a corpus' features: all that they depend on."""
    return ScoreKey(
        teacher=FEATURES,
        teacher_fingerprint=fingerprint(encoder, tokenizer),
        corpus_fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        settings={"max_length": tokenizer.model_max_length},
    )


def store_features(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    store: HiddenStore,
    corpus: Corpus,
    advance: Advance,
    *,
    device: str,
    batch_tokens: int,
) -> None:
    """Compute the shards of features that a store lacks.

    Args:
        encoder: The encoder; afterwards it is on the CPU.
        tokenizer: Tokenizer of the encoder.
        store: Store of the features.
        corpus: The texts.
        advance: Is called with numbers of finished texts, including those that the store holds already.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_tokens: Largest number of tokens that run together.

    Raises:
        AmalgamError: The model gives no vectors of tokens, or the store belongs to another run or cannot be written to.
    """
    encoder.to(resolve_device(device))
    fill(store, corpus, lambda texts: text_features(encoder, tokenizer, texts, batch_tokens), advance)
    encoder.to("cpu")


def text_features(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_tokens: int = CPU_BATCH_TOKENS,
) -> np.ndarray:
    """The mean of the last layer's vectors over each text's tokens, ``(n_texts, width)`` of float32.

    Raises:
        AmalgamError: The model gives no vectors of tokens, or a feature is not finite.
    """

    def mean_state(output: Any, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor | None = getattr(output, "last_hidden_state", None)
        if states is None:
            raise AmalgamError(f"a {encoder.config.model_type} model gives no vectors of tokens, so it has no features")
        share = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(1).float()
        return (share @ states.float()).squeeze(1)

    encoded = encode(texts, tokenizer, tokenizer.model_max_length)
    pad = tokenizer.pad_token_id
    features = text_vectors(encoder, encoded, mean_state, pad_token_id=pad, batch_tokens=batch_tokens)
    if not np.isfinite(features).all():
        raise AmalgamError("the student's encoder gives features that are not finite; its weights are damaged")
    return features

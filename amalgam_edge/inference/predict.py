"""A model's logits for texts, with dropout off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.inference.batches import CPU_BATCH_TOKENS, batches_by_length, encode
from amalgam_edge.inference.runner import DropoutRunner


def predict_texts(
    runner: DropoutRunner,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    batch_tokens: int = CPU_BATCH_TOKENS,
) -> np.ndarray:
    """Run a model with dropout off over texts.

    Args:
        runner: Runs the model.
        tokenizer: Tokenizer of the model.
        texts: Texts in any order.
        max_length: Number of tokens that longer texts are truncated to.
        batch_tokens: Largest number of tokens that run together, padding included.

    Returns:
        Logits ``(n_texts, n_classes)`` of float32, in the order of ``texts``.
    """
    logits = np.empty((len(texts), runner.n_classes), dtype=np.float32)
    encoded = encode(texts, tokenizer, max_length)
    for batch in batches_by_length(encoded, pad_token_id=tokenizer.pad_token_id, batch_tokens=batch_tokens):
        logits[batch.rows] = runner.run(batch.input_ids, batch.attention_mask, [DROPOUT_OFF])[0]
    return logits

"""Trim a student's vocabulary to the tokens that training texts use, as far as held-out texts keep their labels."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.exporters.selection.fidelity import Fidelity, measure_fidelity
from amalgam_edge.heads import Heads
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.vocabulary import kept_tokens, trim_vocabulary
from amalgam_edge.progress import Say

# How many of the vocabulary's first tokens are kept although no text uses them, the fewest first. Vocabularies begin
# with the most common tokens, which other texts are most likely to need.
FIRST_TOKENS_KEPT = (0, 2000, 4000, 8000, 16000)


@dataclass(frozen=True)
class TrimmedStudent:
    """A student with fewer tokens.

    Attributes:
        model: The student with a smaller embedding table.
        tokenizer: The tokenizer without the tokens that were left out.
        n_tokens: The number of tokens that were kept.
        n_before: The number of tokens before trimming.
        fidelity: How faithful it is to the student with all tokens.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    n_tokens: int
    n_before: int
    fidelity: Fidelity


def trim_through_gate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    used: Collection[int],
    texts: Sequence[str],
    heads: Heads,
    *,
    budget: float,
    say: Say = lambda message: None,
) -> TrimmedStudent | None:
    """Leave out the tokens that are not in use, as far as the labels of held-out texts allow.

    Args:
        model: A trained student.
        tokenizer: The student's tokenizer; its ``model_max_length`` is the longest input.
        used: The ids of the tokens that the training texts use.
        texts: Other texts, held out from training.
        heads: The student's heads.
        budget: The share of these texts that may change their label.
        say: Gets a message for each vocabulary that changes too many labels.

    Returns:
        The student with the fewest tokens that is within the budget; None if there is none, or no token can be left
        out.
    """
    reference = _logits(model, tokenizer, texts)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    n_before = int(model.get_input_embeddings().weight.shape[0])
    for n_first in FIRST_TOKENS_KEPT:
        kept = kept_tokens(content, used, n_first)
        if len(kept) >= n_before:
            break
        trimmed_model, trimmed_tokenizer = trim_vocabulary(model, tokenizer, kept)
        fidelity = measure_fidelity(reference, _logits(trimmed_model, trimmed_tokenizer, texts), heads)
        if fidelity.disagreement <= budget:
            return TrimmedStudent(trimmed_model, trimmed_tokenizer, len(kept), n_before, fidelity)
        say(f"{len(kept)} of {n_before} tokens: {fidelity.disagreement:.2%} of labels change, over {budget:.2%}")
    return None


def _logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    runner = TorchRunner(model, sites=(), device="cpu")
    return predict_texts(runner, tokenizer, texts, max_length=tokenizer.model_max_length)

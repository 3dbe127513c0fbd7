"""The vocabulary that a student needs, through a gate of its own: on texts that had no say in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.exporters.selection.fidelity import Fidelity, compare
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.vocabulary import kept_tokens, with_tokens

LADDER = (0, 2000, 4000, 8000, 16000)  # tokens from the first that stay unused; vocabularies begin with the common ones


@dataclass(frozen=True)
class Trimmed:
    """A student that knows fewer tokens.

    Attributes:
        model: with a smaller table.
        tokenizer: whose other tokens are gone.
        n_tokens: that stayed.
        n_before: that there were.
        fidelity: to the student with all tokens.
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
    *,
    budget: float,
    say: Callable[[str], None] = lambda message: None,
) -> Trimmed | None:
    """Leave out the tokens that are not in use, as far as the labels of other texts allow.

    Args:
        model: a trained student.
        tokenizer: its own; ``model_max_length`` is the longest input.
        used: ids that the training texts use.
        texts: others, held out.
        budget: the share of them that may change their label.
        say: told of each miss.

    Returns:
        The smallest that was good enough; None where none was, or nothing could be left out.
    """
    reference = _logits(model, tokenizer, texts)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    n_before = int(model.get_input_embeddings().weight.shape[0])
    for first in LADDER:
        kept = kept_tokens(content, used, first)
        if len(kept) >= n_before:
            break
        small = with_tokens(model, tokenizer, kept)
        fidelity = compare(reference, _logits(*small, texts))
        if fidelity.disagreement <= budget:
            return Trimmed(*small, len(kept), n_before, fidelity)
        say(f"{len(kept)} of {n_before} tokens: {fidelity.disagreement:.2%} of labels change, over {budget:.2%}")
    return None


def _logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    runner = TorchRunner(model, sites=(), device="cpu")
    return predict_texts(runner, tokenizer, texts, max_length=tokenizer.model_max_length)

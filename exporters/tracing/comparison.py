"""An exported model against torch in float64, so that what is seen is the export and not torch's own rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel

from amalgam_edge.exporters.tracing.tracing import probe_inputs

TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller

# (texts, tokens, padding of the first text): one text, a token alone, padded and not, short and long.
_PROBES = ((1, 1, 0), (1, 16, 0), (2, 5, 3), (3, 9, 4), (4, 33, 20))

# Token ids and attention mask, both (n_texts, n_tokens), to logits (…, n_texts, n_classes).
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that computes in float64."""
    return copy.deepcopy(model).double()


def largest_difference(model: PreTrainedModel, original: Run, exported: Run) -> float:
    """The largest difference of any logit, as a share of the largest logit of its probe, or of 1 if that is larger.

    Args:
        model: for its vocabulary.
        original: the model in torch.
        exported: the same elsewhere.

    Returns:
        NaN where either answered with one.
    """
    differences = []
    for probe in _PROBES:
        inputs = [tensor.numpy() for tensor in probe_inputs(model, *probe)]
        expected = original(*inputs)
        difference = np.abs(exported(*inputs) - expected).max()
        differences.append(difference / max(1.0, np.abs(expected).max()))
    return float(np.max(differences))

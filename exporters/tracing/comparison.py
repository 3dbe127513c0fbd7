"""Compare an exported model with torch in float64, so that the difference is the export's and not torch's rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel

from amalgam_edge.exporters.tracing.to_onnx import probe_inputs

TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller

# (n_texts, n_tokens, padding of the first text): a single text, a single token, padded and not, short and long.
_PROBES = ((1, 1, 0), (1, 16, 0), (2, 5, 3), (3, 9, 4), (4, 33, 20))

# Computes logits (…, n_texts, n_classes) from token ids and attention mask, both (n_texts, n_tokens).
LogitsFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model that computes in float64."""
    return copy.deepcopy(model).double()


def largest_difference(model: PreTrainedModel, original: LogitsFunction, exported: LogitsFunction) -> float:
    """The largest difference of any logit over all probes.

    The differences of a probe are shares of its largest logit, or of 1 if that is larger.

    Args:
        model: The model, whose vocabulary the probes are drawn from.
        original: Runs the model in torch.
        exported: Runs the exported model.

    Returns:
        The largest share; NaN if either model answered NaN.
    """
    differences = []
    for probe in _PROBES:
        inputs = [tensor.numpy() for tensor in probe_inputs(model, *probe)]
        expected = original(*inputs)
        difference = np.abs(exported(*inputs) - expected).max()
        differences.append(difference / max(1.0, np.abs(expected).max()))
    return float(np.max(differences))

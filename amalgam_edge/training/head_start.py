"""Fitting a student's last layer before anything else is trained.

The random weights of a new head would first disturb the encoder, and the few hundred updates that a small corpus allows
are soon over. A linear fit on the encoder's hidden states takes seconds, and training continues from there (linear
probing, then fine-tuning: Kumar et al., arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.inference.vectors import text_vectors
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.hidden_state import capture_hidden_state, last_layer
from amalgam_edge.numerics.linear import fit_linear
from amalgam_edge.training.trainers import LossFunction

MOST_TEXTS = 20_000
BATCH_TOKENS = 4096
_STEPS = 60


def start_head(
    model: PreTrainedModel,
    input_ids: Sequence[list[int]],
    supervision: Supervision,
    loss: LossFunction,
    *,
    pad_token_id: int,
    device: str = "auto",
) -> None:
    """Fit the last layer of a classifier in place and leave everything else unchanged. The model ends on the CPU.

    A model whose last layer does not read one vector per text is left unchanged.

    Args:
        model: A classifier with a new head.
        input_ids: Token ids of each text. If there are more than ``MOST_TEXTS``, that many evenly spaced texts are
            used.
        supervision: The supervision of the texts, one row per text.
        loss: Function (logits, target, weight) → mean loss over the texts, a scalar.
        pad_token_id: Token id that fills up shorter texts.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    rows = evenly_spaced(len(input_ids))
    states = _hidden_states(model, [input_ids[int(row)] for row in rows], pad_token_id, device)
    if states is None:
        return
    slopes, bias = fit_layer(states, supervision.take(rows), loss)
    layer = last_layer(model)
    with torch.no_grad():
        layer.weight.copy_(slopes.T)
        if layer.bias is not None:
            layer.bias.copy_(bias)


def evenly_spaced(n_texts: int) -> np.ndarray:
    """The rows of the texts that a layer is fitted to: all, or ``MOST_TEXTS`` that are evenly spaced."""
    return np.linspace(0, n_texts - 1, min(n_texts, MOST_TEXTS)).round().astype(int)


def fit_layer(
    states: torch.Tensor, supervision: Supervision, loss: LossFunction, *, steps: int = _STEPS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a linear layer to supervision: logits = states · weight + bias.

    Args:
        states: Hidden states, ``(n_texts, width)`` of float64.
        supervision: The supervision of the same texts.
        loss: Function (logits, target, weight) → mean loss over the texts, a scalar.
        steps: The largest number of optimiser steps.

    Returns:
        The weight ``(width, n_labels)`` and the bias ``(n_labels,)``, of float64.
    """
    target = torch.from_numpy(supervision.target.astype(np.float64))
    mean_weight = supervision.weight.mean(axis=0, dtype=np.float64)
    weight = torch.from_numpy((supervision.weight / mean_weight).astype(np.float64))
    centre = states.mean(dim=0)
    scale = (states - centre).square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(states.dtype).tiny)
    fitted = fit_linear(
        (states - centre) / scale, target.shape[1], lambda logits: loss(logits, target, weight), steps=steps
    )
    slopes = fitted[:-1] / scale
    return slopes, fitted[-1] - centre @ slopes


def _hidden_states(
    model: PreTrainedModel, input_ids: Sequence[list[int]], pad_token_id: int, device: str
) -> torch.Tensor | None:
    """The inputs of the last layer with dropout off, ``(n_texts, width)`` of float64. None if it reads every token."""
    model.to(resolve_device(device))
    try:
        with capture_hidden_state(model) as latest:
            states = text_vectors(
                model, input_ids, lambda output, mask: latest(), pad_token_id=pad_token_id, batch_tokens=BATCH_TOKENS
            )
    except AmalgamError:
        return None
    finally:
        model.to("cpu")
    return torch.from_numpy(states).double()

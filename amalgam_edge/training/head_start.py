"""A student's last layer, fitted before anything else is trained.

A new head's random weights first pull at the encoder for nothing, and a few hundred updates of a small corpus are then
over before it has learned its labels. A linear fit on what the encoder makes of the texts takes seconds, and training
goes on from there (linear probing, then fine-tuning: Kumar et al., arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.inference.vectors import text_vectors
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.hidden_state import capture_hidden_state, last_layer
from amalgam_edge.numerics.linear import fit_linear

MOST_TEXTS = 20_000
BATCH_TOKENS = 4096
_STEPS = 60


def start_head(
    model: PreTrainedModel,
    input_ids: Sequence[list[int]],
    supervision: Supervision,
    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    pad_token_id: int,
    device: str = "auto",
) -> None:
    """Fit the last layer of a classifier in place, all else as it is; left on the CPU.

    A model whose last layer does not read one vector a text is left as it was.

    Args:
        model: with a new head.
        input_ids: token ids of each text; of more than ``MOST_TEXTS``, as many evenly spaced ones are read.
        supervision: a row a text.
        loss: (logits, target, weight) → scalar, the mean over texts.
        pad_token_id: fills texts up.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    rows = np.linspace(0, len(input_ids) - 1, min(len(input_ids), MOST_TEXTS)).round().astype(int)
    states = _hidden_states(model, [input_ids[int(row)] for row in rows], pad_token_id, device)
    if states is None:
        return
    own = supervision.take(rows)
    target = torch.from_numpy(own.target.astype(np.float64))
    weight = torch.from_numpy((own.weight / own.weight.mean(dtype=np.float64)).astype(np.float64))
    centre = states.mean(dim=0)
    scale = (states - centre).square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(states.dtype).tiny)
    fitted = fit_linear(
        (states - centre) / scale, target.shape[1], lambda logits: loss(logits, target, weight), steps=_STEPS
    )
    layer = last_layer(model)
    slopes = fitted[:-1] / scale
    with torch.no_grad():
        layer.weight.copy_(slopes.T)
        if layer.bias is not None:
            layer.bias.copy_(fitted[-1] - centre @ slopes)


def _hidden_states(
    model: PreTrainedModel, input_ids: Sequence[list[int]], pad_token_id: int, device: str
) -> torch.Tensor | None:
    """What goes into the last layer, dropout off, ``(n_texts, width)`` of float64; None where it is not one vector."""
    model.to(resolve_device(device))
    try:
        with capture_hidden_state(model) as latest:
            states = text_vectors(
                model, input_ids, lambda output, mask: latest(), pad_token_id=pad_token_id, batch_tokens=BATCH_TOKENS
            )
    except AmalgamError:  # its last layer reads every token
        return None
    finally:
        model.to("cpu")
    return torch.from_numpy(states).double()

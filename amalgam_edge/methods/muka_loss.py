"""The loss of the MUKA methods."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from amalgam_edge.recipe.sections import MethodSettings


def weighted_divergence(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, settings: MethodSettings | None = None
) -> torch.Tensor:
    """mean_x v(x) · KL(target(x) ‖ softmax(logits(x))), in nats."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under mixed precision they are half floats
    divergence = F.kl_div(F.log_softmax(exact, dim=-1), target, reduction="none").sum(dim=-1)
    return (weight * divergence).mean()

"""The loss that most methods train the student under."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam_edge.recipe.sections import MethodSettings

if TYPE_CHECKING:
    import torch


def weighted_divergence(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, settings: MethodSettings | None = None
) -> torch.Tensor:
    """mean_x v(x) · KL(target(x) ‖ softmax(logits(x))) in nats, a scalar.

    Args:
        logits: The student's logits, ``(n_texts, n_labels)``.
        target: Target distributions, ``(n_texts, n_labels)``.
        weight: The text weights v, ``(n_texts,)``.
        settings: Ignored; every loss of a method takes it.
    """
    import torch  # in the function, so that methods can be listed without torch
    import torch.nn.functional as F

    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half floats under mixed precision
    divergence = F.kl_div(F.log_softmax(exact, dim=-1), target, reduction="none").sum(dim=-1)
    return (weight * divergence).mean()

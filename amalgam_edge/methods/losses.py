"""The losses that most methods train the student under: of a softmax head, and of a sigmoid head."""

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


def weighted_binary_divergence(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, settings: MethodSettings | None = None
) -> torch.Tensor:
    """mean_x v(x) · Σ_y KL(Bernoulli(target_y(x)) ‖ Bernoulli(sigmoid(logits_y(x)))) in nats, a scalar.

    It is the binary cross-entropy less the entropy of the target, so that 0 is reached, as in
    :func:`weighted_divergence`. Labels do not exclude each other, so their divergences add up to that of the label set.

    Args:
        logits: The student's logits, ``(n_texts, n_labels)``.
        target: The probability of each label, ``(n_texts, n_labels)``.
        weight: The text weights v, ``(n_texts,)``.
        settings: Ignored; every loss of a method takes it.
    """
    import torch  # in the function, so that methods can be listed without torch
    import torch.nn.functional as F

    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half floats under mixed precision
    target = target.to(exact.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(exact, target, reduction="none")
    entropy = torch.special.entr(target) + torch.special.entr(1 - target)
    return (weight * (cross_entropy - entropy).sum(dim=-1)).mean()

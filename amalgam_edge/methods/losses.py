"""The losses that most methods train the student under: of a softmax head, and of a sigmoid head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from amalgam_edge.heads import SOFTMAX, Head, Heads
from amalgam_edge.recipe.sections import MethodSettings

if TYPE_CHECKING:
    import torch

    LossFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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


def divergence_of(head: Head) -> LossFunction:
    """How far a student's answers in a head are from their target: :func:`weighted_divergence`, or that of labels."""
    return weighted_divergence if head.activation == SOFTMAX else weighted_binary_divergence


def sum_over_heads(heads: Heads, losses: Sequence[LossFunction]) -> LossFunction:
    """The loss of several heads: the sum of each one's own over its columns.

    Args:
        heads: The heads, whose logits and targets stand side by side.
        losses: The loss of each: function (logits, target, weight) → scalar. Weights are ``(n_texts,)`` for all heads,
            or ``(n_texts, n_heads)``.
    """

    def loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        import torch  # in the function, so that methods can be listed without torch

        terms = []
        for position, (head, own_loss) in enumerate(zip(heads, losses, strict=True)):
            columns = heads.columns(head.name)
            own_weight = weight if weight.ndim == 1 else weight[:, position]
            terms.append(own_loss(logits[:, columns], target[:, columns], own_weight))
        return torch.stack(terms).sum()

    return loss

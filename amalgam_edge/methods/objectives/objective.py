"""The base class of objectives, and the batch that they read."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TrainingBatch:
    """Everything an objective reads of a batch of texts. All tensors are float32.

    Attributes:
        logits: The student's logits, ``(n_texts, n_labels)``.
        hidden: The student's hidden states, ``(n_texts, student_width)``.
        target: The target distributions of the supervision, ``(n_texts, n_labels)``.
        weight: The text weights of the supervision, ``(n_texts,)``.
        teacher_logits: For each teacher, its logits, ``(n_texts, n_classes)``.
        teacher_hidden: For each teacher, its hidden states, ``(n_texts, width)``. Empty if the method reads none.
    """

    logits: torch.Tensor
    hidden: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    teacher_logits: tuple[torch.Tensor, ...] = ()
    teacher_hidden: tuple[torch.Tensor, ...] = ()


class Objective(torch.nn.Module):
    """A loss as a module. Its parameters are trained together with the student's and are not part of any bundle."""

    def forward(self, batch: TrainingBatch) -> torch.Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

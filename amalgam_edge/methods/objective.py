"""Losses that read more than supervision, and may be trained along with the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


class Rows(Protocol):
    """A row a text; of what is on disk, a row is read when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Told:
    """What each teacher says of each text, beyond the supervision that is made of it.

    Attributes:
        logits: per teacher, rows of ``(n_classes,)``, dropout off.
        hidden: per teacher, rows of ``(width,)``: its hidden states; empty where the method reads none.
    """

    logits: tuple[Rows, ...] = ()
    hidden: tuple[Rows, ...] = ()

    def take(self, rows: np.ndarray) -> Told:
        """The same for a selection of texts, in the order of ``rows``."""
        return Told(
            tuple(_Selection(part, rows) for part in self.logits), tuple(_Selection(part, rows) for part in self.hidden)
        )


class _Selection:
    """Some rows of others."""

    def __init__(self, source: Rows, rows: np.ndarray) -> None:
        self.source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.source[int(self._rows[row])]


@dataclass(frozen=True)
class Shapes:
    """What an objective is built for.

    Attributes:
        columns: per teacher, the position in the label space of each of its classes.
        teacher_widths: entries of each teacher's hidden state; empty where the method reads none.
        student_width: entries of the student's.
    """

    columns: tuple[Sequence[int], ...]
    teacher_widths: tuple[int, ...]
    student_width: int


@dataclass(frozen=True)
class Batch:
    """What an objective reads of some texts, all of it float32.

    Attributes:
        logits: the student's, ``(n, n_labels)``.
        hidden: the student's hidden state, ``(n, student_width)``.
        target: of the supervision, ``(n, n_labels)``.
        weight: of the supervision, ``(n,)``.
        teacher_logits: per teacher, ``(n, n_classes)``.
        teacher_hidden: per teacher, ``(n, width)``; empty where the method reads none.
    """

    logits: torch.Tensor
    hidden: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    teacher_logits: tuple[torch.Tensor, ...] = ()
    teacher_hidden: tuple[torch.Tensor, ...] = ()


class Objective(torch.nn.Module):
    """A loss as a module: what parameters it has are trained with the student's, and thrown away with it."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss, a scalar."""
        raise NotImplementedError

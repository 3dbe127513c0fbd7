"""What the teachers predict for each text, for objectives that read more than the supervision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Rows(Protocol):
    """One array per text. Rows that lie on disk are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> np.ndarray: ...


@dataclass(frozen=True)
class TeacherSignals:
    """The teachers' logits and hidden states, one row per text.

    Attributes:
        logits: For each teacher, its logits with dropout off, rows of ``(n_classes,)``.
        hidden: For each teacher, its hidden states, rows of ``(width,)``. Empty if the method reads none.
    """

    logits: tuple[Rows, ...] = ()
    hidden: tuple[Rows, ...] = ()

    def take(self, rows: np.ndarray) -> TeacherSignals:
        """The same for a selection of texts, in the order of ``rows``."""
        return TeacherSignals(
            logits=tuple(_Selection(part, rows) for part in self.logits),
            hidden=tuple(_Selection(part, rows) for part in self.hidden),
        )


class _Selection:
    """A selection of rows that reads each row from its source when it is asked for."""

    def __init__(self, source: Rows, rows: np.ndarray) -> None:
        self.source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.source[int(self._rows[row])]

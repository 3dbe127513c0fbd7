"""The interface of whatever runs a model under numbered dropout passes, and a check that its dropout is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from amalgam_edge.errors import AmalgamError


class DropoutRunner(Protocol):
    """Runs a model under numbered dropout passes, on some runtime."""

    @property
    def n_classes(self) -> int:
        """The number of logits for each text."""

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Run one batch through some passes.

        Args:
            input_ids: Token ids, ``(n_texts, n_tokens)`` of int64, padded on the right.
            attention_mask: 1 for tokens and 0 for padding, ``(n_texts, n_tokens)`` of int64.
            passes: Numbers of the passes; :data:`~amalgam_edge.dropout.masks.DROPOUT_OFF` runs without dropout.

        Returns:
            Logits ``(n_passes, n_texts, n_classes)`` of float32.
        """


def prove_dropout_alive(name: str, runner: DropoutRunner, input_ids: np.ndarray, attention_mask: np.ndarray) -> None:
    """Check on one batch that two passes differ, and that a pass gives the same logits when it is run again.

    Args:
        name: Name of the teacher, for error messages.
        runner: Runs the teacher.
        input_ids: As for :meth:`DropoutRunner.run`.
        attention_mask: As for :meth:`DropoutRunner.run`.

    Raises:
        AmalgamError: Two passes agree to the bit, so dropout is off; or a pass does not repeat, so the model draws
            random numbers that the masks do not control.
    """
    first, second, again = runner.run(input_ids, attention_mask, [0, 1, 0])
    if np.array_equal(first, second):
        raise AmalgamError(
            f"teacher '{name}': two dropout passes over the same texts agree to the bit, so its dropout is off"
        )
    if not np.array_equal(first, again, equal_nan=True):
        raise AmalgamError(
            f"teacher '{name}': a dropout pass does not repeat; the model draws random numbers of its own"
        )

"""What can run a teacher, and the proof that its dropout is alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from amalgam_edge.errors import AmalgamError


class TeacherRunner(Protocol):
    """A teacher on some runtime."""

    @property
    def n_classes(self) -> int:
        """How many logits it gives for a text."""

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Logits of one batch under each of the passes.

        Args:
            input_ids: ``(n_texts, n_tokens)`` of int64, padded on the right.
            attention_mask: ``(n_texts, n_tokens)`` of int64.
            passes: numbers of masks; :data:`~amalgam_edge.dropout.masks.DROPOUT_OFF` is the prediction without dropout.

        Returns:
            ``(n_passes, n_texts, n_classes)`` of float32.
        """


def prove_dropout_alive(name: str, runner: TeacherRunner, input_ids: np.ndarray, attention_mask: np.ndarray) -> None:
    """Run a probe batch under two masks and stop unless they differ; under one mask twice, and stop unless they agree.

    Raises:
        AmalgamError: two passes agree to the bit (dropout is off), or one pass does not repeat (some other
            randomness is on).
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

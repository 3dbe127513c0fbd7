"""Tokenized texts with their supervision as a data set, and how its examples are joined to batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from amalgam_edge.inference.padding import pad_batch
from amalgam_edge.methods import TeacherSignals
from amalgam_edge.methods.supervision import Supervision


class SupervisedTexts(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized texts, each with its target, its weight, and optionally the teachers' signals.

    Args:
        input_ids: Token ids of each text. May be memory-mapped.
        supervision: The supervision of the texts, one row per text.
        signals: The teachers' logits and hidden states, one row per text, if an objective reads them.

    Raises:
        ValueError: There are not as many targets as texts.
    """

    def __init__(
        self, input_ids: Sequence[list[int]], supervision: Supervision, signals: TeacherSignals | None = None
    ) -> None:
        if len(input_ids) != len(supervision.target):
            raise ValueError(f"{len(input_ids)} texts but {len(supervision.target)} targets")
        self._input_ids = input_ids
        self._supervision = supervision
        self._signals = signals or TeacherSignals()

    @property
    def supervision(self) -> Supervision:
        """The supervision of the texts, one row per text."""
        return self._supervision

    @property
    def signals(self) -> TeacherSignals:
        """The teachers' logits and hidden states, one row per text."""
        return self._signals

    def lengths(self) -> list[int]:
        """The number of tokens of each text, ``(n_texts,)``."""
        return [len(ids) for ids in self._input_ids]

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            "input_ids": self._input_ids[row],
            "target": self._supervision.target[row],
            "weight": self._supervision.weight[row],
            "teacher_logits": [part[row] for part in self._signals.logits],
            "teacher_hidden": [part[row] for part in self._signals.hidden],
        }


class PaddingCollator:
    """Joins examples of :class:`SupervisedTexts` to a batch, padded on the right to the longest text.

    Args:
        pad_token_id: Token id that fills up shorter texts.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of tensors; ``teacher_logits`` and ``teacher_hidden`` are lists of one tensor per teacher."""
        input_ids, attention_mask = pad_batch([example["input_ids"] for example in examples], self._pad_token_id)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "target": torch.from_numpy(np.stack([example["target"] for example in examples])),
            "weight": torch.from_numpy(np.stack([example["weight"] for example in examples])),
            "teacher_logits": _stack_by_teacher([example["teacher_logits"] for example in examples]),
            "teacher_hidden": _stack_by_teacher([example["teacher_hidden"] for example in examples]),
        }


def _stack_by_teacher(rows: Sequence[Sequence[np.ndarray]]) -> list[torch.Tensor]:
    """For each text one array per teacher → for each teacher one tensor of all texts."""
    return [torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)]

"""Precision, recall and F1 of each label. Pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelCounts:
    """Texts by label, ``(n_labels,)`` of int each.

    Attributes:
        hits: Texts with the label that are given it.
        n_gold: Texts with the label.
        n_predicted: Texts that are given the label.
    """

    hits: np.ndarray
    n_gold: np.ndarray
    n_predicted: np.ndarray

    @classmethod
    def of_confusion(cls, confusion: np.ndarray) -> LabelCounts:
        """From counts by gold and predicted class, ``(n_labels, n_labels)``."""
        return cls(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))

    @classmethod
    def of_label_sets(cls, gold: np.ndarray, predicted: np.ndarray) -> LabelCounts:
        """From whether each label holds and is predicted to, ``(n_texts, n_labels)`` of bool."""
        return cls((gold & predicted).sum(axis=0), gold.sum(axis=0), predicted.sum(axis=0))

    def scores(self) -> list[dict[str, float | None]]:
        """``precision``, ``recall`` and ``f1`` of each label; None where a label has no text to divide by."""
        columns = (self.hits.tolist(), self.n_gold.tolist(), self.n_predicted.tolist())
        return [
            {
                "precision": _share(hits, n_predicted),
                "recall": _share(hits, n_gold),
                "f1": _share(2 * hits, n_gold + n_predicted),
            }
            for hits, n_gold, n_predicted in zip(*columns, strict=True)
        ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

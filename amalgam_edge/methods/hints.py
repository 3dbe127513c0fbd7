"""What is known of some texts beside what teachers say: whose stream a text came from, or its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amalgam_edge.methods.supervision import Supervision

_TINY = 1e-12


@dataclass(frozen=True)
class Hints:
    """What is known of some texts, for one head.

    Attributes:
        owner: The teacher that knows a text's label, as a position among the head's teachers, ``(n_texts,)``; −1 where
            that is not known.
        rows: The texts whose label is known, ``(n_known,)``.
        target: Their labels: 1 for each that holds, else 0, ``(n_known, n_labels)``.
    """

    owner: np.ndarray
    rows: np.ndarray
    target: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Whether anything is known of a text, ``(n_texts,)`` of bool."""
        known: np.ndarray = self.owner >= 0
        known[self.rows] = True
        return known

    def restrict(self, distribution: np.ndarray, knowledge: np.ndarray) -> np.ndarray:
        """Give mass to those labels alone that are possible, ``(n_texts, n_labels)``.

        A text of a known owner keeps the mass on its owner's labels, scaled to 1; where there is none, it is spread
        evenly over them. A text of a known label has its target.

        Args:
            distribution: Distributions over labels, ``(n_texts, n_labels)``.
            knowledge: 1 if a teacher knows a label, else 0, ``(n_labels, n_teachers)``.
        """
        restricted = distribution.copy()
        owned = np.flatnonzero(self.owner >= 0)
        possible = np.maximum(distribution[owned], _TINY) * knowledge.T[self.owner[owned]]
        restricted[owned] = possible / possible.sum(axis=1, keepdims=True)
        restricted[self.rows] = self.target
        return restricted

    def apply(self, supervision: Supervision, knowledge: np.ndarray, *, exclusive: bool) -> Supervision:
        """Supervision that does not contradict what is known.

        Args:
            supervision: What a method made of the teachers' scores.
            knowledge: 1 if a teacher knows a label, else 0, ``(n_labels, n_teachers)``.
            exclusive: Whether one label holds; else an owner says nothing of the others' labels.
        """
        weight, picked = supervision.weight.copy(), supervision.picked.copy()
        if exclusive:
            target = self.restrict(supervision.target, knowledge)
        else:
            target = supervision.target.copy()
            target[self.rows] = self.target
        weight[self.rows] = 1.0  # the most that a method gives
        picked[self.owner >= 0] = self.owner[self.owner >= 0]
        return Supervision(target.astype(np.float32), weight, picked)

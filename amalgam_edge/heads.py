"""Heads: the questions that a student answers, each with labels of its own, and how answers are read from its logits.

One linear layer gives the logits of all heads, side by side. Nothing competes between heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import SIGMOID, SOFTMAX, Activation, to_probabilities

ONLY_HEAD = "label"  # the name of the head of a student that has one, where nobody named it
THRESHOLD = 0.5  # probability from which on a label of a sigmoid head holds, where no other was given
SEPARATOR = "/"  # between the names of a head and of a label


@dataclass(frozen=True)
class Head:
    """A question: its labels, and how they exclude each other.

    Attributes:
        name: Its name.
        activation: ``softmax``: one of the labels holds; ``sigmoid``: any of them may.
        labels: The labels, in the order of the logits.
        thresholds: Of a sigmoid head, the probability from which on each label holds, ``(n_labels,)``.
        abstain: Of a softmax head, the score below which no label is given; 0 gives one to every text.
    """

    name: str
    activation: Activation
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    abstain: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of logits, both ``(n_texts, n_labels)``, in float64."""
        return to_probabilities(logits.astype(np.float64), self.activation)

    def holds(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each label of a sigmoid head holds, ``(n_texts, n_labels)`` of bool; false for NaN."""
        return probabilities >= np.array(self.thresholds or [THRESHOLD] * len(self))

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """What is answered, as numbers: the likeliest label ``(n_texts, 1)``, or which hold ``(n_texts, n_labels)``.

        A softmax head answers with its likeliest label here, whatever its score.
        """
        if self.activation == SOFTMAX:
            return logits.argmax(axis=1)[:, None]
        return self.holds(self.probabilities(logits)).astype(np.int64)


@dataclass(frozen=True)
class Heads:
    """The heads of a student, in the order of its logits.

    Attributes:
        heads: At least one.
    """

    heads: tuple[Head, ...]
    _columns: dict[str, slice] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = np.cumsum([len(head) for head in self.heads]).tolist()
        columns = {head.name: slice(end - len(head), end) for head, end in zip(self.heads, ends, strict=True)}
        object.__setattr__(self, "_columns", columns)

    @classmethod
    def of_labels(cls, labels: Sequence[str]) -> Heads:
        """One softmax head with these labels."""
        return cls((Head(ONLY_HEAD, SOFTMAX, tuple(labels)),))

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __getitem__(self, name: str) -> Head:
        """The head of this name.

        Raises:
            AmalgamError: There is none.
        """
        found = next((head for head in self.heads if head.name == name), None)
        if found is None:
            raise AmalgamError(f"no head '{name}'; there are {', '.join(self.names)}")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the heads."""
        return tuple(head.name for head in self.heads)

    @property
    def is_one_softmax(self) -> bool:
        """Whether there is one question, of which one label holds: a plain classifier."""
        return len(self.heads) == 1 and self.heads[0].activation == SOFTMAX

    @property
    def problem_type(self) -> str:
        """What transformers calls it: one label of all, or several; of several heads the latter is the nearest."""
        return "single_label_classification" if self.is_one_softmax else "multi_label_classification"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of all logits: those of the labels, after the name of the head and a slash if there are several."""
        if len(self.heads) == 1:
            return self.heads[0].labels
        return tuple(f"{head.name}{SEPARATOR}{label}" for head in self.heads for label in head.labels)

    def columns(self, name: str) -> slice:
        """The positions of a head's labels among all logits."""
        return self._columns[name]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """The columns of each head, ``(n_texts, n_labels of the head)``, from ``(n_texts, n_labels)``.

        Raises:
            ValueError: There are not as many columns as labels.
        """
        if values.shape[1] != len(self.labels):
            raise ValueError(f"{values.shape[1]} columns for {len(self.labels)} labels")
        return [values[:, self.columns(head.name)] for head in self.heads]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of logits, both ``(n_texts, n_labels)``, in float64."""
        parts = [head.probabilities(part) for head, part in zip(self.heads, self.split(logits), strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def same_answers(self, logits: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether two models answer a text with the same label, or the same labels, ``(n_texts, n_heads)`` of bool.

        Where ``other`` is not finite it answers nothing.

        Args:
            logits: Logits of one model, ``(n_texts, n_labels)``.
            other: Logits of the other.
        """
        same = [
            (head.answers(one) == head.answers(two)).all(axis=1) & np.isfinite(two).all(axis=1)
            for head, one, two in zip(self.heads, self.split(logits), self.split(other), strict=True)
        ]
        return np.stack(same, axis=1)


def check_head_names(names: Sequence[str]) -> None:
    """Refuse names that could not be told apart from names of labels, or from each other.

    Raises:
        AmalgamError: A name is blank, appears twice, or has a character with a meaning of its own.
    """
    for name in names:
        if not name.strip() or any(character in name for character in f"{SEPARATOR}=,;\n"):
            raise AmalgamError(f"'{name}' cannot be the name of a head: it is blank, or has one of / = , ; in it")
        if list(names).count(name) > 1:
            raise AmalgamError(f"two heads are called '{name}': name them apart")


__all__ = ["ONLY_HEAD", "SEPARATOR", "SIGMOID", "SOFTMAX", "THRESHOLD", "Head", "Heads", "check_head_names"]

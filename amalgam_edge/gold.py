"""Gold answers: what is right for each text, for the evaluation of a head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import ONLY_HEAD, SIGMOID, SOFTMAX, Head
from amalgam_edge.labels import encode_names

LABEL_COLUMN = "label"  # of the gold labels of a student with one head
SET_SEPARATOR = ";"  # between several labels in one cell

# What a cell may say of a head's only label, beside its name or nothing.
_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Cell = str | Sequence[str] | None  # a gold label, several of them, or none


@dataclass(frozen=True)
class GoldAnswers:
    """The gold answers of one head.

    Attributes:
        rows: The texts that have one, ascending, ``(n_gold,)``.
        answers: Of a softmax head the position of the gold label of each, ``(n_gold,)`` of int64; of a sigmoid head
            whether each label holds, ``(n_gold, n_labels)`` of bool.
    """

    rows: np.ndarray
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def gold_answers(head: Head, cells: Sequence[Cell], *, may_lack: bool = False) -> GoldAnswers:
    """The gold answers that a column of cells holds.

    Args:
        head: The head.
        cells: Of each text one label, several, or none. Several are a list, a list in JSON, or separated by ``;``.
        may_lack: Whether a text may have no gold label of a softmax head; it is left out then.

    Raises:
        AmalgamError: A label is none of the head's, or no text has one.
    """
    sets = [split_cell(cell, head) for cell in cells]
    where = "" if head.name == ONLY_HEAD else f"head '{head.name}': "
    if head.activation == SOFTMAX:
        rows = [row for row, labels in enumerate(sets) if labels or not may_lack]
        if not rows:
            raise AmalgamError(f"head '{head.name}': no text has a gold label")
        several = next((labels for labels in sets if len(labels) > 1), None)
        if several:
            raise AmalgamError(f"head '{head.name}' gives one label, and a text has several: {', '.join(several)}")
        return GoldAnswers(
            np.array(rows), encode_names(head.labels, [next(iter(sets[row]), "") for row in rows], where)
        )
    answers = np.zeros((len(sets), len(head)), dtype=bool)
    for row, labels in enumerate(sets):
        answers[row, encode_names(head.labels, labels, where)] = True
    return GoldAnswers(np.arange(len(sets)), answers)


def gold_sets(head: Head, gold: GoldAnswers) -> np.ndarray:
    """Whether each label holds, ``(n_gold, n_labels)`` of bool."""
    return gold.answers if head.activation == SIGMOID else np.eye(len(head), dtype=bool)[gold.answers]


def split_cell(cell: Cell, head: Head) -> list[str]:
    """The labels in a cell; of a head with one label it may also say yes or no."""
    if cell is None:
        return []
    if not isinstance(cell, str):
        return [str(label) for label in cell]
    if head.activation == SIGMOID and len(head) == 1 and cell not in head.labels and cell.strip().lower() in _YES_OR_NO:
        return [head.labels[0]] if _YES_OR_NO[cell.strip().lower()] else []
    if head.activation == SOFTMAX or cell in head.labels:
        return [cell] if cell else []
    if cell.startswith("["):
        try:
            listed = json.loads(cell)
        except ValueError:
            listed = None
        if isinstance(listed, list):
            return [str(label) for label in listed]
    return [label.strip() for label in cell.split(SET_SEPARATOR) if label.strip()]


def label_columns(heads: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Head → the column of its gold labels.

    Args:
        heads: The names of the heads.
        columns: One column, or ``HEAD=COLUMN`` for each head. The column of a head that is not named among several is
            called as the head.

    Raises:
        AmalgamError: A head is not there or named twice, or a column is of no head.
    """
    named: dict[str, str] = {}
    for entry in columns:
        head, equals, column = entry.partition("=")
        if not (equals and head in heads):
            if len(heads) > 1:
                if entry == LABEL_COLUMN and len(columns) == 1:
                    continue
                raise AmalgamError(
                    f"--label-column {entry}: name the head, as HEAD=COLUMN; there are {', '.join(heads)}"
                )
            head, column = heads[0], entry
        if head in named:
            remedy = "; a column a head needs several heads: --heads each" if len(heads) == 1 else ""
            raise AmalgamError(f"--label-column: head '{head}' is named twice{remedy}")
        named[head] = column
    if len(heads) == 1:
        return {heads[0]: named.get(heads[0], LABEL_COLUMN)}
    return named or {name: name for name in heads}


def columns_of(named: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of several heads, each once."""
    return tuple(dict.fromkeys(named.values()))

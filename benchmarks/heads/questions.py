"""Labelled texts with several gold columns: each column is a question that every text answers. Pure functions."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.corpora import by_hash

SEPARATOR = ";"  # between the answers of a cell
SHARES = (0.5, 0.27)  # of the texts: the first fine-tunes teachers, the second is the unlabeled corpus, the rest tests

Row = Mapping[str, str]


class Split(NamedTuple):
    """Rows for each purpose; see ``SHARES``."""

    for_teachers: list[Row]
    corpus: list[Row]
    test: list[Row]


@dataclass(frozen=True)
class Question:
    """A gold column.

    Attributes:
        name: Its name.
        labels: The answers that there are.
        multi: Whether a text may have any number of them.
    """

    name: str
    labels: tuple[str, ...]
    multi: bool = False

    def target(self, rows: Iterable[Row]) -> np.ndarray:
        """1 for each label that a text has, else 0, ``(n_texts, n_labels)`` of float32."""
        return np.array([[label in answers(row[self.name]) for label in self.labels] for row in rows], np.float32)


def answers(cell: str) -> list[str]:
    """The answers in a cell."""
    return [answer for answer in cell.split(SEPARATOR) if answer]


def read_rows(path: Path) -> list[Row]:
    """Read a CSV file with a column ``text`` and gold columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def find_questions(rows: Sequence[Row]) -> list[Question]:
    """The questions of all gold columns. One has any number of answers if a cell has several, or none."""
    questions = []
    for name in (column for column in rows[0] if column != "text"):
        cells = [answers(row[name]) for row in rows]
        labels = tuple(sorted({answer for cell in cells for answer in cell}))
        questions.append(Question(name, labels, multi=any(len(cell) != 1 for cell in cells)))
    return questions


def split(rows: Iterable[Row]) -> Split:
    """Divide rows by the hash of their texts: a text goes to the same part whatever the order of the texts."""
    ordered = sorted(rows, key=lambda row: by_hash(row["text"]))
    first, second = (round(len(ordered) * share) for share in (SHARES[0], sum(SHARES)))
    return Split(ordered[:first], ordered[first:second], ordered[second:])

"""A head's answers beside those of one of its teachers, text by text. Pure functions on arrays.

Answers are compared on the labels that the teacher has. They are ``(n_texts, 1)``, the position of a label in a softmax
head, or ``(n_texts, n_classes)``, whether each of the teacher's labels holds in a sigmoid head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.gold import GoldAnswers
from amalgam_edge.heads import SIGMOID, Head
from amalgam_edge.metrics import accuracy
from amalgam_edge.metrics.uncertainty import sigmoid
from amalgam_edge.runtime.evaluation import DifferingAnswer
from amalgam_edge.runtime.manifest_models import TeacherAccuracy, TeacherAgreement
from amalgam_edge.shown_text import shortened
from amalgam_edge.storage.records import from_json

MOST_EXAMPLES = 10
_LONGEST_EXAMPLE = 2000  # characters


@dataclass(frozen=True)
class TaughtLabels:
    """The labels of a head that one of its teachers has.

    Attributes:
        teacher: The teacher's name.
        head: The head.
        columns: The position in the head of each of the teacher's classes, ``(n_classes,)``.
        is_only: Whether the head has no other teacher.
    """

    teacher: str
    head: Head
    columns: tuple[int, ...]
    is_only: bool

    def rows(self, gold: GoldAnswers | None, n_texts: int) -> np.ndarray:
        """The texts that the teacher is asked about, ascending: those of its own labels, or all."""
        if gold is None or self.is_only or self.head.activation == SIGMOID:
            return np.arange(n_texts)
        return gold.rows[np.isin(gold.answers, self.columns)]

    def of_teacher(self, logits: np.ndarray) -> np.ndarray:
        """The teacher's answers, from its logits ``(n_texts, n_classes)``."""
        columns = list(self.columns)
        if self.head.activation == SIGMOID:
            probabilities = np.zeros((len(logits), len(self.head)))
            probabilities[:, columns] = sigmoid(logits.astype(np.float64))
            return self.head.holds(probabilities)[:, columns]
        return np.array(columns)[logits.argmax(axis=1)][:, None]

    def of_student(self, logits: np.ndarray) -> np.ndarray:
        """The student's answers, from the head's logits ``(n_texts, n_labels)``."""
        if self.head.activation == SIGMOID:
            return self.head.holds(self.head.probabilities(logits))[:, self.columns]
        return logits.argmax(axis=1)[:, None]

    def of_gold(self, gold: GoldAnswers) -> np.ndarray:
        """The gold answers, ``(n_gold, …)``."""
        return gold.answers[:, self.columns] if self.head.activation == SIGMOID else gold.answers[:, None]

    def names(self, answer: np.ndarray) -> tuple[str, ...]:
        """The labels in an answer to one text."""
        positions = np.array(self.columns)[answer] if self.head.activation == SIGMOID else answer
        return tuple(self.head.labels[int(position)] for position in positions)


@dataclass(frozen=True)
class TeacherAnswers:
    """What a teacher answers.

    Attributes:
        labels: The teacher's labels.
        rows: The texts that it was asked about, ascending, ``(n_asked,)``.
        answers: Its answers to these, ``(n_asked, …)``.
        gold: The gold answers to these, of the same form; None without any.
        has_gold: Whether there is one for each, ``(n_asked,)`` of bool.
    """

    labels: TaughtLabels
    rows: np.ndarray
    answers: np.ndarray
    gold: np.ndarray | None
    has_gold: np.ndarray

    @classmethod
    def of_logits(
        cls, labels: TaughtLabels, rows: np.ndarray, logits: np.ndarray, gold: GoldAnswers | None
    ) -> TeacherAnswers:
        """From a teacher's logits of some texts, ``(n_asked, n_classes)``."""
        answers = labels.of_teacher(logits)
        if gold is None:
            return cls(labels, rows, answers, None, np.zeros(len(rows), dtype=bool))
        has_gold = np.isin(rows, gold.rows)
        aligned = np.zeros_like(answers)
        aligned[has_gold] = labels.of_gold(gold)[np.isin(gold.rows, rows)]
        return cls(labels, rows, answers, aligned, has_gold)


@dataclass(frozen=True)
class _Compared:
    """The texts that count: whether both agree, and who is right where there is a gold answer, ``(n_texts,)`` each."""

    asked: np.ndarray
    student: np.ndarray
    agree: np.ndarray
    has_gold: np.ndarray
    student_right: np.ndarray
    teacher_right: np.ndarray

    def differing(self) -> dict[str, np.ndarray]:
        """Who was right → the texts on which they differ."""
        differ, known = ~self.agree, self.has_gold
        return {
            "student_right": differ & known & self.student_right,
            "teacher_right": differ & known & self.teacher_right,
            "neither_right": differ & known & ~self.student_right & ~self.teacher_right,
            "no_gold": differ & ~known,
        }


def teacher_accuracy(teacher: TeacherAnswers) -> TeacherAccuracy:
    """How good a teacher is on the texts with gold labels that it was asked about and whose gold label it has."""
    labels, gold = teacher.labels, teacher.gold
    if gold is None or not teacher.has_gold.any():
        return TeacherAccuracy(accuracy=None, n_texts=0)
    known, answers = gold[teacher.has_gold], teacher.answers[teacher.has_gold]
    if labels.head.activation == SIGMOID:
        scores = accuracy.label_set_scores(known, answers, answers.astype(np.float64))
        return TeacherAccuracy(scores["accuracy"], len(known), scores["macro_f1"], scores["micro_f1"])
    confusion = accuracy.confusion_matrix(known[:, 0], answers[:, 0], len(labels.head))
    return from_json(TeacherAccuracy, accuracy.domain_accuracy_and_macro_f1(confusion, labels.columns))


def teacher_agreement(teacher: TeacherAnswers, logits: np.ndarray) -> TeacherAgreement:
    """How the student answers beside the teacher.

    Args:
        teacher: The teacher's answers.
        logits: The head's logits of all texts, ``(n_texts, n_labels)``.
    """
    compared = _compare(teacher, logits)
    differing = {who: int(rows.sum()) for who, rows in compared.differing().items() if who != "no_gold"}
    known = compared.student_right[compared.has_gold]
    by_label: dict[str, float] = {}
    if teacher.labels.head.activation == SIGMOID and len(compared.agree):
        shares = accuracy.label_agreement(compared.student, teacher.answers[compared.asked])
        by_label = {
            teacher.labels.head.labels[k]: float(s) for k, s in zip(teacher.labels.columns, shares, strict=True)
        }
    return TeacherAgreement(
        n_texts=len(compared.agree),
        agreement=_mean(compared.agree),
        labels=by_label,
        accuracy=_mean(known),
        **differing,
    )


def differing_answers(
    teacher: TeacherAnswers, logits: np.ndarray, texts: Sequence[str]
) -> Mapping[str, tuple[DifferingAnswer, ...]]:
    """Who was right → the first texts on which student and teacher differ; kinds without any are left out.

    Args:
        teacher: The teacher's answers.
        logits: The head's logits of all texts, ``(n_texts, n_labels)``.
        texts: All texts.
    """
    compared, labels = _compare(teacher, logits), teacher.labels

    def example(position: int) -> DifferingAnswer:
        asked = compared.asked[position]
        gold = labels.names(teacher.gold[asked]) if teacher.gold is not None and teacher.has_gold[asked] else None
        text = shortened(texts[int(teacher.rows[asked])], _LONGEST_EXAMPLE)
        return DifferingAnswer(
            text, gold, labels.names(teacher.answers[asked]), labels.names(compared.student[position])
        )

    found = {who: np.flatnonzero(rows)[:MOST_EXAMPLES].tolist() for who, rows in compared.differing().items()}
    return {who: tuple(map(example, positions)) for who, positions in found.items() if positions}


def _compare(teacher: TeacherAnswers, logits: np.ndarray) -> _Compared:
    """Student beside teacher; where nothing says which teacher a text belongs to, the student's answer does."""
    labels = teacher.labels
    logits = logits[teacher.rows]
    student = labels.of_student(logits)
    asked = np.arange(len(teacher.rows))
    if teacher.gold is None and not labels.is_only and labels.head.activation != SIGMOID:
        asked = np.flatnonzero(np.isin(student[:, 0], labels.columns))
    student, own, has_gold = student[asked], teacher.answers[asked], teacher.has_gold[asked]
    gold = own if teacher.gold is None else teacher.gold[asked]
    return _Compared(
        asked=asked,
        student=student,
        agree=(student == own).all(axis=1) & np.isfinite(logits[asked]).all(axis=1),
        has_gold=has_gold,
        student_right=(student == gold).all(axis=1),
        teacher_right=(own == gold).all(axis=1),
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None

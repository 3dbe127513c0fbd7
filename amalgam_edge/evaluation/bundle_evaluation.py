"""Measuring a finished bundle on labelled texts, and beside its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.errors import needs_extra
from amalgam_edge.evaluation.comparison import CASCADE, OtherBundle, default_model
from amalgam_edge.evaluation.head_metrics import Domains, evaluate_head
from amalgam_edge.evaluation.labelled_texts import read_labelled_texts
from amalgam_edge.evaluation.teacher_agreement import (
    TeacherAnswers,
    differing_answers,
    teacher_accuracy,
    teacher_agreement,
)
from amalgam_edge.gold import GoldAnswers, columns_of, gold_answers, label_columns
from amalgam_edge.heads import Head, Heads
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.evaluation import Evaluation, HeadEvaluation, ModelEvaluation, TeacherEvaluation
from amalgam_edge.runtime.manifest_heads import BundleHead
from amalgam_edge.runtime.predictions import Abstain

LabelColumns = str | Mapping[str, str] | Sequence[str]  # one column, head → column, or HEAD=COLUMN of several heads


def evaluate_bundle(
    bundle: Bundle,
    data: str,
    *,
    text_column: str | None = None,
    label_column: LabelColumns = (),
    split: str = "test",
    precisions: Sequence[str] = (),
    threads: int | None = None,
    abstain: Abstain | None = None,
    teachers: Sequence[str] = (),
    compare: Bundle | None = None,
) -> Evaluation:
    """How good each head is, by each precision, on labelled texts and beside its teachers.

    The bundle's cascade is measured too, where it has one and no precisions are named.

    Args:
        bundle: The bundle to measure.
        data: Labelled texts, in any form that a corpus may have. If teachers are named, they need no labels.
        text_column: The column that holds the text; by default ``text``, or the only column of strings.
        label_column: The columns that hold the gold labels, see :func:`~amalgam_edge.gold.label_columns`.
        split: The split of a Hub data set.
        precisions: The precisions to measure; by default all whose model is there.
        threads: How many threads compute, at most one per usable core; by default that many.
        abstain: No label is given below this score, by head or of all softmax heads; by default the bundle's own
            thresholds, and 0 never abstains.
        teachers: ``NAME=PATH`` of teachers of the bundle, to set beside the student.
        compare: Another bundle, whose accuracy on the same texts is set beside this one's.

    Raises:
        AmalgamError: The data cannot be read or names a label that the bundle does not know; a teacher is none of the
            bundle's or cannot be loaded; a bundle is damaged.
    """
    may_lack = bool(teachers) and not label_column
    texts, gold = _read(bundle.heads, data, text_column, label_column, split, may_lack_labels=may_lack)
    classifiers = _open_models(bundle, precisions, threads, abstain)
    heads = next(iter(classifiers.values())).heads
    beside = _ask_teachers(bundle, teachers, texts, gold) if teachers else []
    other = OtherBundle.load(compare, bundle, gold, precisions, threads) if compare else None
    logits = {name: classifier.logits(texts) for name, classifier in classifiers.items()}
    default = default_model(bundle) if default_model(bundle) in logits else next(iter(logits))
    measured = {}
    for head, described in zip(heads, bundle.manifest.heads, strict=True):
        own = {name: answers[:, heads.columns(head.name)] for name, answers in logits.items()}
        of_head = [teacher for teacher in beside if teacher.answers.labels.head.name == head.name]
        measured[head.name] = HeadEvaluation(
            activation=head.activation,
            n_texts=len(gold.get(head.name, ())),
            labels=head.labels,
            student=_measure(head, gold.get(head.name), own, label_domains(described)),
            teachers={teacher.answers.labels.teacher: teacher.compare(own, default, texts) for teacher in of_head},
        )
    return Evaluation(
        data=data,
        n_texts=len(texts),
        default_model=default,
        heads={name: head for name, head in measured.items() if head.student or head.teachers},
        comparison=other.compare(texts, gold, logits) if other else None,
    )


def _measure(
    head: Head, gold: GoldAnswers | None, logits: Mapping[str, np.ndarray], domains: Domains
) -> dict[str, ModelEvaluation]:
    """Model → what is measured of it on the texts with gold labels, by its logits of all texts; nothing without any."""
    if gold is None:
        return {}
    return {name: evaluate_head(head, gold, own[gold.rows], domains) for name, own in logits.items()}


def label_domains(head: BundleHead) -> dict[str, list[int]]:
    """Teacher → positions of its labels in a head, as the manifest says where each label comes from."""
    domains: dict[str, list[int]] = {}
    for position, label in enumerate(head.labels):
        for teacher in dict.fromkeys(source.teacher for source in label.sources):
            domains.setdefault(teacher, []).append(position)
    return domains


@dataclass(frozen=True)
class _TeacherBeside:
    """What a teacher answers, and whether it is the one that the bundle was built from."""

    answers: TeacherAnswers
    as_built: bool

    def compare(self, logits: Mapping[str, np.ndarray], default: str, texts: Sequence[str]) -> TeacherEvaluation:
        """The teacher, and each model of the student beside it by the logits of their head."""
        own = teacher_accuracy(self.answers)
        return TeacherEvaluation(
            **{
                **vars(own),
                "student": {name: teacher_agreement(self.answers, logits[name]) for name in logits},
                "as_built": self.as_built,
                "examples": differing_answers(self.answers, logits[default], texts),
            }
        )


def _read(
    heads: Heads, data: str, text_column: str | None, label_column: LabelColumns, split: str, *, may_lack_labels: bool
) -> tuple[list[str], dict[str, GoldAnswers]]:
    """The texts, and the gold answers of the heads that have a column of them."""
    columns = label_columns(heads.names, _as_entries(heads, label_column))
    labelled = read_labelled_texts(
        data,
        text_column=text_column,
        label_columns=columns_of(columns),
        may_lack_labels=may_lack_labels,
        split=split,
    )
    gold = {
        name: gold_answers(heads[name], labelled.labels[column], may_lack=len(heads) > 1)
        for name, column in columns.items()
        if column in labelled.labels
    }
    return labelled.texts, gold


def _as_entries(heads: Heads, label_column: LabelColumns) -> Sequence[str]:
    """Columns of gold labels as the command line has them."""
    if isinstance(label_column, str):
        return [label_column]
    if isinstance(label_column, Mapping):
        return [f"{heads[head].name}={column}" for head, column in label_column.items()]
    return label_column


def _open_models(
    bundle: Bundle, precisions: Sequence[str], threads: int | None, abstain: Abstain | None
) -> dict[str, EdgeClassifier]:
    """The models to measure: the precisions named, or all that are there and the cascade."""
    classifiers = {
        precision: EdgeClassifier(bundle, precision=precision, threads=threads, abstain=abstain, cascade=False)
        for precision in precisions or bundle.available_precisions()
    }
    if bundle.cascade and not precisions:
        classifiers[CASCADE] = EdgeClassifier(bundle, threads=threads, abstain=abstain, cascade=True)
    return classifiers


def _ask_teachers(
    bundle: Bundle, specs: Sequence[str], texts: Sequence[str], gold: Mapping[str, GoldAnswers]
) -> list[_TeacherBeside]:
    with needs_extra("train", "running teachers"):
        from amalgam_edge.evaluation.teachers import ask, load_bundle_teachers
    return [
        _TeacherBeside(ask(own.teacher, own.labels, texts, gold.get(own.labels.head.name), device="auto"), own.as_built)
        for own in load_bundle_teachers(bundle, specs)
    ]

"""Measuring the models of a build on labelled texts, which no part of the build has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amalgam_edge.building.choosing import ChosenStudent
from amalgam_edge.building.data import Models, ScoredTexts, Student, StudentVariant
from amalgam_edge.evaluation.head_metrics import confusion_of_head, head_accuracy, reliability_of_head
from amalgam_edge.evaluation.teacher_agreement import (
    TaughtLabels,
    TeacherAnswers,
    teacher_accuracy,
    teacher_agreement,
)
from amalgam_edge.evaluation.teachers import ask
from amalgam_edge.gold import GoldAnswers
from amalgam_edge.heads import SIGMOID, Head, Heads
from amalgam_edge.methods.taught_heads import TaughtHead
from amalgam_edge.metrics.calibration import Reliability
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.sections import ComputeSettings, EvaluationSettings
from amalgam_edge.runtime.bundle import MODEL_FILES, TOKENIZER
from amalgam_edge.runtime.cascade import CascadeModel
from amalgam_edge.runtime.manifest_models import (
    BuildEvaluation,
    Cascade,
    HeadAccuracy,
    TeacherAccuracy,
)
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent


@dataclass(frozen=True)
class EvaluatedHead:
    """What was measured of one head on labelled texts.

    Attributes:
        confusion: Texts by true and predicted label of the model that ships, ``(n_labels, n_labels)``; None of a
            sigmoid head.
        curves: Reliability of the scores, as trained and calibrated.
    """

    confusion: np.ndarray | None
    curves: Mapping[str, Reliability]


@dataclass(frozen=True)
class EvaluatedBuild:
    """What was measured on labelled texts.

    Attributes:
        accuracies: Accuracies of teachers and student, as the manifest holds them.
        heads: Head → what else the report shows of it.
    """

    accuracies: BuildEvaluation
    heads: Mapping[str, EvaluatedHead]


def evaluate_models(
    models: Models,
    scored: ScoredTexts,
    chosen: ChosenStudent,
    cascade: Cascade | None,
    evaluation_settings: EvaluationSettings,
    compute_settings: ComputeSettings,
    folder: Path,
) -> EvaluatedBuild:
    """Measure each head on the texts with gold labels for it: the student's models, and the head's own teachers."""
    assert scored.texts.labelled is not None  # noqa: S101  (there are labelled texts, or this is not called)
    texts = list(scored.texts.labelled.texts)
    heads = models.heads.heads
    logits = _student_logits(chosen, cascade, heads, folder, texts)
    teachers = {teacher.name: teacher for teacher in models.teachers}
    accuracies, evaluated = {}, {}
    for taught in models.heads:
        head, gold = taught.head, models.gold.get(taught.head.name)
        if gold is None:
            continue
        own = {model: answers[:, heads.columns(head.name)] for model, answers in logits.items()}
        with_gold = {model: answers[gold.rows] for model, answers in own.items()}
        accuracies[head.name] = HeadAccuracy(
            n_texts=len(gold),
            student={model: head_accuracy(head, gold, answers) for model, answers in with_gold.items()},
            teachers={
                name: _beside_teacher(ask_teacher(teachers[name], taught, texts, gold, compute_settings.device), own)
                for name in taught.teachers
            },
        )
        shipped = with_gold[chosen.models.default_precision]
        evaluated[head.name] = EvaluatedHead(
            None if head.activation == SIGMOID else confusion_of_head(gold, shipped),
            _reliability(head, chosen.variant, heads.columns(head.name), gold, shipped),
        )
    build = BuildEvaluation(data=str(evaluation_settings.source), n_texts=len(texts), heads=accuracies)
    return EvaluatedBuild(build, evaluated)


def open_model(student: Student, folder: Path, model: Path) -> TextModel:
    """A model of the bundle in ``folder``, with the student's tokenizer."""
    tokenizer = student.tokenizer
    return TextModel(
        FileContent.read(model),
        FileContent.read(folder / TOKENIZER),
        max_length=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
    )


def ask_teacher(
    teacher: Teacher, taught: TaughtHead, texts: Sequence[str], gold: GoldAnswers, device: str
) -> TeacherAnswers:
    """What a teacher of a head answers to labelled texts.

    Args:
        teacher: The teacher.
        taught: The head that it teaches.
        texts: All labelled texts.
        gold: The gold answers of the head.
        device: Device to run the teacher on.
    """
    columns, is_only = tuple(taught.labels.columns[teacher.name]), len(taught.teachers) == 1
    return ask(teacher, TaughtLabels(teacher.name, taught.head, columns, is_only=is_only), texts, gold, device)


def _beside_teacher(answers: TeacherAnswers, logits: Mapping[str, np.ndarray]) -> TeacherAccuracy:
    """How good a teacher is, and how each of the student's models answers beside it."""
    student = {model: teacher_agreement(answers, own) for model, own in logits.items()}
    return replace(teacher_accuracy(answers), student=student)


def _student_logits(
    chosen: ChosenStudent, cascade: Cascade | None, heads: Heads, folder: Path, texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Logits of each precision, and of the cascade where there is one, ``(n_texts, n_labels)``."""
    logits = {
        name: open_model(chosen.student, folder, folder / MODEL_FILES[name]).run(texts)[0]
        for name in chosen.models.precisions
    }
    if cascade is not None and cascade.static_model is not None:
        static = cascade.static_model
        encoder = open_model(chosen.student, folder, folder / MODEL_FILES[chosen.models.default_precision])
        model = CascadeModel(encoder, FileContent.read(folder / static.file), static.threshold, heads)
        logits["cascade"] = model.run(texts)[0]
    return logits


def _reliability(
    head: Head, variant: StudentVariant, columns: slice, gold: GoldAnswers, logits: np.ndarray
) -> dict[str, Reliability]:
    """Confidence against true labels, before the logits were divided by their temperatures and after.

    Of a sigmoid head it is the confidence in each answer, yes or no, to each label.
    """
    temperatures = variant.temperatures[columns] if variant.calibrations else np.ones(len(head))
    curves = {"as trained": reliability_of_head(head, gold.answers, logits * temperatures)}
    if variant.calibrations:
        curves["calibrated"] = reliability_of_head(head, gold.answers, logits)
    return curves

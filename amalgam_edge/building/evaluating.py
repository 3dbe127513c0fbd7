"""Measuring the models of a build on labelled texts, which no part of the build has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amalgam_edge.building.choosing import ChosenStudent
from amalgam_edge.building.data import Models, ScoredTexts, Student, StudentVariant
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.labels import LabelSpace
from amalgam_edge.metrics import accuracy
from amalgam_edge.metrics.calibration import Reliability, reliability
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.sections import ComputeSettings, EvaluationSettings, ExportSettings
from amalgam_edge.runtime.bundle import MODEL_FILES, TOKENIZER
from amalgam_edge.runtime.cascade import CascadeModel
from amalgam_edge.runtime.manifest_models import Answered, BuildEvaluation, Cascade, ModelAccuracy, TeacherAccuracy
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent
from amalgam_edge.storage.records import from_json


@dataclass(frozen=True)
class EvaluatedBuild:
    """What was measured on labelled texts.

    Attributes:
        accuracies: Accuracies of teachers and student, as the manifest holds them.
        confusion: Texts by true and predicted label of the model that ships, ``(n_labels, n_labels)``.
        curves: Reliability of the scores, as trained and calibrated.
    """

    accuracies: BuildEvaluation
    confusion: np.ndarray
    curves: Mapping[str, Reliability]


def evaluate_models(
    models: Models,
    scored: ScoredTexts,
    chosen: ChosenStudent,
    cascade: Cascade | None,
    evaluation_settings: EvaluationSettings,
    export_settings: ExportSettings,
    compute_settings: ComputeSettings,
    folder: Path,
) -> EvaluatedBuild:
    """Measure the teachers on the labelled texts of their own labels, and the student's models on all of them."""
    assert models.gold is not None  # noqa: S101  (there are labelled texts, or this is not called)
    assert scored.texts.labelled is not None  # noqa: S101
    gold, texts = models.gold, list(scored.texts.labelled.texts)
    logits = _student_logits(chosen, cascade, folder, texts)
    accuracies = BuildEvaluation(
        data=str(evaluation_settings.source),
        n_texts=len(texts),
        student={name: _accuracy(gold, answers, export_settings.abstain) for name, answers in logits.items()},
        teachers={
            teacher.name: evaluate_teacher(teacher, models.labels, texts, gold, compute_settings.device)
            for teacher in models.teachers
        },
    )
    shipped = logits[chosen.models.default_precision]
    confusion = accuracy.confusion_matrix(gold, shipped.argmax(axis=1), len(models.labels))
    return EvaluatedBuild(accuracies, confusion, _reliability(chosen.variant, gold, shipped))


def _accuracy(gold: np.ndarray, logits: np.ndarray, abstain: float) -> ModelAccuracy:
    confusion = accuracy.confusion_matrix(gold, logits.argmax(axis=1), logits.shape[1])
    answered = accuracy.answered_share_and_accuracy(gold, logits, abstain) if abstain else None
    return ModelAccuracy(
        **accuracy.accuracy_and_macro_f1(confusion),
        abstaining=None if answered is None else from_json(Answered, answered),
    )


def open_model(student: Student, folder: Path, model: Path) -> TextModel:
    """A model of the bundle in ``folder``, with the student's tokenizer."""
    tokenizer = student.tokenizer
    return TextModel(
        FileContent.read(model),
        FileContent.read(folder / TOKENIZER),
        max_length=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
    )


def evaluate_teacher(
    teacher: Teacher, labels: LabelSpace, texts: Sequence[str], gold: np.ndarray, device: str
) -> TeacherAccuracy:
    """A teacher's accuracy on the texts whose true label is one of its own; None where there are none.

    Args:
        teacher: The teacher.
        labels: The label space.
        texts: Labelled texts.
        gold: Their true labels as positions in the label space, ``(n_texts,)``.
        device: Device to run the teacher on.
    """
    rows = np.flatnonzero(np.isin(gold, labels.columns[teacher.name]))
    if len(rows) == 0:
        return TeacherAccuracy(accuracy=None, n_texts=0)
    logits = predict_texts(
        TorchRunner(teacher.model, teacher.sites, device=device),
        teacher.tokenizer,
        [texts[int(row)] for row in rows],
        max_length=teacher.max_length,
    )
    predicted = np.array(labels.columns[teacher.name])[logits.argmax(axis=1)]
    return TeacherAccuracy(accuracy.accuracy(gold[rows], predicted), len(rows))


def _student_logits(
    chosen: ChosenStudent, cascade: Cascade | None, folder: Path, texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Logits of each precision, and of the cascade where there is one, ``(n_texts, n_labels)``."""
    logits = {
        name: open_model(chosen.student, folder, folder / MODEL_FILES[name]).run(texts)[0]
        for name in chosen.models.precisions
    }
    if cascade is not None and cascade.static_model is not None:
        static = cascade.static_model
        encoder = open_model(chosen.student, folder, folder / MODEL_FILES[chosen.models.default_precision])
        logits["cascade"] = CascadeModel(encoder, FileContent.read(folder / static.file), static.threshold).run(texts)[
            0
        ]
    return logits


def _reliability(variant: StudentVariant, gold: np.ndarray, logits: np.ndarray) -> dict[str, Reliability]:
    """Confidence against true labels, before the student's logits were divided by its temperature and after."""
    truth = np.eye(logits.shape[1])[gold]
    curves = {"as trained": reliability(logits, truth, temperature=1 / variant.temperature)}
    if variant.calibration is not None:
        curves["calibrated"] = reliability(logits, truth)
    return curves

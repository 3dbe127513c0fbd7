"""Measuring the models of a build on labelled texts, which no part of the build has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from amalgam_edge.runtime.text_model import TextModel


@dataclass(frozen=True)
class BuildEvaluation:
    """What was measured on labelled texts.

    Attributes:
        account: The manifest's ``evaluation``.
        confusion: Texts by true and predicted label of the model that ships, ``(n_labels, n_labels)``.
        curves: Reliability of the scores, as trained and calibrated.
        n_texts: Number of labelled texts.
    """

    account: dict[str, Any]
    confusion: np.ndarray
    curves: Mapping[str, Reliability]
    n_texts: int


def evaluate_models(
    models: Models,
    scored: ScoredTexts,
    chosen: ChosenStudent,
    cascade: Mapping[str, Any] | None,
    evaluation_settings: EvaluationSettings,
    export_settings: ExportSettings,
    compute_settings: ComputeSettings,
    folder: Path,
) -> BuildEvaluation:
    """Measure the teachers on the labelled texts of their own labels, and the student's models on all of them."""
    assert models.gold is not None  # noqa: S101  (there are labelled texts, or this is not called)
    assert scored.texts.labelled is not None  # noqa: S101
    gold, texts = models.gold, list(scored.texts.labelled.texts)
    logits = _student_logits(chosen, cascade, folder, texts)
    account = {
        "data": evaluation_settings.source,
        "n_texts": len(texts),
        "student": {
            name: {
                **accuracy.accuracy_and_macro_f1(
                    accuracy.confusion_matrix(gold, of_model.argmax(axis=1), len(models.labels))
                ),
                **(
                    accuracy.answered_share_and_accuracy(gold, of_model, export_settings.abstain)
                    if export_settings.abstain
                    else {}
                ),
            }
            for name, of_model in logits.items()
        },
        "teachers": {
            teacher.name: evaluate_teacher(teacher, models.labels, texts, gold, compute_settings.device)
            for teacher in models.teachers
        },
    }
    shipped = logits[chosen.measured["default_precision"]]
    confusion = accuracy.confusion_matrix(gold, shipped.argmax(axis=1), len(models.labels))
    return BuildEvaluation(account, confusion, _reliability(chosen.variant, gold, shipped), len(gold))


def open_model(student: Student, folder: Path, model: Path) -> TextModel:
    """A model of the bundle in ``folder``, with the student's tokenizer."""
    tokenizer = student.tokenizer
    return TextModel(
        model, folder / TOKENIZER, max_length=tokenizer.model_max_length, pad_token_id=tokenizer.pad_token_id
    )


def evaluate_teacher(
    teacher: Teacher, labels: LabelSpace, texts: Sequence[str], gold: np.ndarray, device: str
) -> dict[str, Any]:
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
        return {"accuracy": None, "n_texts": 0}
    logits = predict_texts(
        TorchRunner(teacher.model, teacher.sites, device=device),
        teacher.tokenizer,
        [texts[int(row)] for row in rows],
        max_length=teacher.max_length,
    )
    predicted = np.array(labels.columns[teacher.name])[logits.argmax(axis=1)]
    return {"accuracy": accuracy.accuracy(gold[rows], predicted), "n_texts": len(rows)}


def _student_logits(
    chosen: ChosenStudent, cascade: Mapping[str, Any] | None, folder: Path, texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Logits of each precision, and of the cascade where there is one, ``(n_texts, n_labels)``."""
    logits = {
        name: open_model(chosen.student, folder, folder / MODEL_FILES[name]).run(texts)[0]
        for name in chosen.measured["precisions"]
    }
    if cascade is not None and cascade["file"]:
        encoder = open_model(chosen.student, folder, folder / MODEL_FILES[chosen.measured["default_precision"]])
        logits["cascade"] = CascadeModel(encoder, folder / cascade["file"], cascade["threshold"]).run(texts)[0]
    return logits


def _reliability(variant: StudentVariant, gold: np.ndarray, logits: np.ndarray) -> dict[str, Reliability]:
    """Confidence against true labels, before the student's logits were divided by its temperature and after."""
    truth = np.eye(logits.shape[1])[gold]
    curves = {"as trained": reliability(logits, truth, temperature=1 / variant.temperature)}
    if variant.calibration is not None:
        curves["calibrated"] = reliability(logits, truth)
    return curves

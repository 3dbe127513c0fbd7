"""Measuring the models of a build on labelled texts, which no part of the build has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amalgam_edge.building.choosing import ChosenStudent
from amalgam_edge.building.data import Models, ScoredTexts, Student, StudentVariant
from amalgam_edge.gold import GoldAnswers
from amalgam_edge.heads import Head, Heads
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.methods.taught_heads import TaughtHead
from amalgam_edge.metrics import accuracy
from amalgam_edge.metrics.calibration import Reliability, as_probabilities, as_two_classes, reliability
from amalgam_edge.metrics.uncertainty import SIGMOID, sigmoid
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.sections import ComputeSettings, EvaluationSettings
from amalgam_edge.runtime.bundle import MODEL_FILES, TOKENIZER
from amalgam_edge.runtime.cascade import CascadeModel
from amalgam_edge.runtime.manifest_models import (
    Answered,
    BuildEvaluation,
    Cascade,
    HeadAccuracy,
    ModelAccuracy,
    TeacherAccuracy,
)
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent
from amalgam_edge.storage.records import from_json


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
        name = taught.head.name
        gold = models.gold.get(name)
        if gold is None:
            continue
        own = {model: answers[gold.rows][:, heads.columns(name)] for model, answers in logits.items()}
        accuracies[name] = HeadAccuracy(
            n_texts=len(gold),
            student={model: _accuracy(taught.head, gold, answers) for model, answers in own.items()},
            teachers={
                teacher: evaluate_teacher(teachers[teacher], taught, texts, gold, compute_settings.device)
                for teacher in taught.teachers
            },
        )
        shipped = own[chosen.models.default_precision]
        evaluated[name] = EvaluatedHead(
            _confusion(taught.head, gold, shipped),
            _reliability(taught.head, chosen.variant, heads.columns(name), gold, shipped),
        )
    build = BuildEvaluation(data=str(evaluation_settings.source), n_texts=len(texts), heads=accuracies)
    return EvaluatedBuild(build, evaluated)


def _accuracy(head: Head, gold: GoldAnswers, logits: np.ndarray) -> ModelAccuracy:
    if head.activation == SIGMOID:
        probabilities = head.probabilities(logits)
        measured = accuracy.label_set_scores(gold.answers, head.holds(probabilities), probabilities)
        return from_json(ModelAccuracy, measured)
    confusion = accuracy.confusion_matrix(gold.answers, logits.argmax(axis=1), logits.shape[1])
    abstain = head.abstain
    answered = accuracy.answered_share_and_accuracy(gold.answers, logits, abstain) if abstain else None
    return ModelAccuracy(
        **accuracy.accuracy_and_macro_f1(confusion),
        micro_f1=None,
        mean_average_precision=None,
        abstaining=None if answered is None else from_json(Answered, answered),
    )


def _confusion(head: Head, gold: GoldAnswers, logits: np.ndarray) -> np.ndarray | None:
    if head.activation == SIGMOID:
        return None
    return accuracy.confusion_matrix(gold.answers, logits.argmax(axis=1), len(head))


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
    teacher: Teacher, taught: TaughtHead, texts: Sequence[str], gold: GoldAnswers, device: str
) -> TeacherAccuracy:
    """A teacher's accuracy on the texts whose true label is one of its own; None where there are none.

    Of a sigmoid head it is the share of all texts on which it is right about each of its own labels.

    Args:
        teacher: The teacher.
        taught: The head that it teaches.
        texts: Labelled texts.
        gold: The gold answers of the head.
        device: Device to run the teacher on.
    """
    columns = list(taught.labels.columns[teacher.name])
    of_sigmoid = taught.head.activation == SIGMOID
    own = np.arange(len(gold)) if of_sigmoid else np.flatnonzero(np.isin(gold.answers, columns))
    if len(own) == 0:
        return TeacherAccuracy(accuracy=None, n_texts=0)
    logits = predict_texts(
        TorchRunner(teacher.model, teacher.sites, device=device),
        teacher.tokenizer,
        [texts[int(row)] for row in gold.rows[own]],
        max_length=teacher.max_length,
    )
    if of_sigmoid:
        thresholds = np.array(taught.head.thresholds)[columns]
        right = ((sigmoid(logits.astype(np.float64)) >= thresholds) == gold.answers[own][:, columns]).all(axis=1)
    else:
        right = np.array(columns)[logits.argmax(axis=1)] == gold.answers[own]
    return TeacherAccuracy(float(right.mean()), len(own))


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


def reliability_of_head(head: Head, answers: np.ndarray, logits: np.ndarray) -> Reliability:
    """Confidence against gold answers.

    Args:
        head: The head.
        answers: The gold answers, see :class:`~amalgam_edge.gold.GoldAnswers`.
        logits: Logits ``(n_texts, n_labels)``.
    """
    if head.activation == SIGMOID:
        flat = answers.reshape(-1).astype(np.float64)
        return reliability(as_two_classes(logits.reshape(-1)), as_probabilities(flat))
    return reliability(logits, np.eye(len(head))[answers])

"""Training a student, trimming its vocabulary, and calibrating it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from amalgam_edge.building.data import BuildTexts, Student, StudentVariant, TrainingData
from amalgam_edge.building.supervising import supervise
from amalgam_edge.exporters.selection.trimming import trim_through_gate
from amalgam_edge.heads import SOFTMAX, THRESHOLD, Head
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.methods import Method, Shapes, TeacherSignals, method_named
from amalgam_edge.methods.losses import sum_over_heads
from amalgam_edge.methods.objectives import Objective
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.metrics.calibration import Calibration, calibrate, calibrate_labels
from amalgam_edge.models.hidden_state import last_layer
from amalgam_edge.progress import Advance, Say
from amalgam_edge.recipe.sections import MethodSettings, TrainingSettings
from amalgam_edge.runtime.manifest_models import TrimmedVocabulary
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.training.fitting import History, fit
from amalgam_edge.training.head_start import start_head
from amalgam_edge.training.supervised_texts import SupervisedTexts
from amalgam_edge.training.trainers import LossFunction


def train(
    student: Student,
    data: TrainingData,
    method: MethodSettings,
    settings: TrainingSettings,
    folder: Path,
    advance: Advance,
    *,
    resume: bool = False,
) -> History:
    """Train a student on the supervision of the corpus' training rows, its head first.

    Args:
        student: The student, changed in place.
        data: What it is trained on.
        method: The method, whose loss or objective is used.
        settings: Settings of the training loop.
        folder: Folder of checkpoints.
        advance: Called with the number of updates just made.
        resume: Go on from the last checkpoint, where there is one.

    Returns:
        The training curve.
    """
    prepare_training(student, data, method, settings, folder, resume=resume)
    train_texts, held_out = (
        SupervisedTexts(
            data.tokenized.dataset.select(rows)["input_ids"], data.supervision.take(rows), data.signals.take(rows)
        )
        for rows in (data.texts.train, data.texts.held_out)
    )
    loss = objective_of(method, settings.seed, data.heads, student, data.signals)
    return fit(
        student.model,
        student.tokenizer,
        train_texts,
        held_out,
        loss,
        settings,
        folder=folder,
        advance=advance,
        resume=resume,
    )


def prepare_training(
    student: Student,
    data: TrainingData,
    method: MethodSettings,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool,
) -> None:
    """What comes before training: the folder is emptied, unless training resumes, and the student's head is started.

    See :func:`amalgam_edge.training.head_start.start_head`.
    """
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    start_head(
        student.model,
        data.tokenized.dataset.select(data.texts.train)["input_ids"],
        data.supervision.take(data.texts.train),
        loss_of(method, data.heads),
        pad_token_id=student.tokenizer.pad_token_id,
        device=settings.device,
    )


def loss_of(settings: MethodSettings, heads: TaughtHeads) -> LossFunction:
    """The loss of the method, with its parameters bound: the sum over heads of each one's own, times its weight."""
    method = method_named(settings.name)
    if heads.heads.is_one_softmax:
        return lambda logits, target, weight: method.loss(logits, target, weight, settings)
    return sum_over_heads(heads.heads, [_weighted_loss(method, settings, taught) for taught in heads])


def _weighted_loss(method: Method, settings: MethodSettings, taught: TaughtHead) -> LossFunction:
    """The loss of one of several heads, times its weight."""
    own_loss = method.loss if taught.head.activation == SOFTMAX else method.label_loss
    assert own_loss is not None  # noqa: S101  (require_heads has checked)
    return lambda logits, target, weight: taught.weight * own_loss(logits, target, weight, settings)


def objective_of(
    settings: MethodSettings, seed: int, heads: TaughtHeads, student: Student, signals: TeacherSignals
) -> LossFunction | Objective:
    """What the student is trained under: the method's loss, or its objective, made for these teachers and this student.

    The initial weights of an objective depend on the seed alone.
    """
    method = method_named(settings.name)
    if method.objective is None:
        return loss_of(settings, heads)
    shapes = Shapes(
        columns=tuple(heads.only.labels.columns.values()),
        teacher_widths=tuple(len(part[0]) for part in signals.hidden),
        student_width=last_layer(student.model).in_features,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return method.objective(shapes, settings)


def agreements_with_supervision(student: Student, data: TrainingData) -> tuple[float, ...]:
    """Of each head, the share of held-out texts on which a student answers as their supervision does.

    That is the same likeliest label; of a sigmoid head the same labels that are likelier than not.
    """
    target = data.supervision.take(data.texts.held_out).target
    logits = held_out_logits(student, data.texts)
    agreements = []
    for head in data.heads.heads:
        columns = data.heads.heads.columns(head.name)
        agreements.append(agreement_of_head(head, target[:, columns], logits[:, columns]))
    return tuple(agreements)


def agreement_of_head(head: Head, target: np.ndarray, logits: np.ndarray) -> float:
    """The share of texts on which a head answers as its supervision does, from targets and uncalibrated logits."""
    if head.activation == SOFTMAX:
        same = target.argmax(axis=1) == logits.argmax(axis=1)
    else:
        same = ((target >= THRESHOLD) == (logits >= 0)).all(axis=1)
    return float(same.mean())


def trimmed_variants(
    student: Student, data: TrainingData, allowed: float, say: Say, *, keep_whole: bool
) -> list[StudentVariant]:
    """A trained student without the tokens that the training texts do not use; not calibrated.

    Args:
        student: The trained student.
        data: What it was trained on.
        allowed: Largest share of held-out texts whose label may change.
        say: Shows a line.
        keep_whole: Whether the student with its whole vocabulary comes first too.

    Returns:
        The trimmed student, or the student as it was where held-out texts do not allow trimming.
    """
    trimmed = StudentVariant(*trim_vocabulary(student, data, allowed, say))
    return [StudentVariant(student), trimmed] if keep_whole and trimmed.vocabulary else [trimmed]


def trim_vocabulary(
    student: Student, data: TrainingData, allowed: float, say: Say
) -> tuple[Student, TrimmedVocabulary | None]:
    """The student without the tokens that the training texts do not use, and the manifest's account of it.

    Where held-out texts do not allow it, it is the student as it was, and None.
    """
    used = {token for ids in data.tokenized.dataset.select(data.texts.train)["input_ids"] for token in ids}
    held_out = data.texts.corpus.take(data.texts.held_out)
    trimmed = trim_through_gate(
        student.model, student.tokenizer, used, held_out, data.heads.heads, budget=allowed, say=say
    )
    if trimmed is None:
        say("the whole vocabulary stays")
        return student, None
    described = TrimmedVocabulary(trimmed.n_tokens, trimmed.n_before, trimmed.fidelity.entry())
    return Student(trimmed.model, trimmed.tokenizer), described


def calibrated(variant: StudentVariant, data: TrainingData, method: MethodSettings) -> StudentVariant:
    """The same student with temperatures fitted to held-out supervision."""
    return replace(variant, calibrations=calibrate_student(variant.student, data, method))


def calibrate_student(student: Student, data: TrainingData, settings: MethodSettings) -> tuple[Calibration, ...]:
    """Fit the temperatures of each head to the supervision of the held-out texts.

    A softmax head has one, a sigmoid head one for each label.

    Supervision that a method softens by a temperature of its own is computed without it.
    """
    supervision = unsoftened(settings, data.heads, data.scores) or data.supervision
    held_out = supervision.take(data.texts.held_out)
    logits = held_out_logits(student, data.texts)
    fitted = []
    for position, head in enumerate(data.heads.heads):
        columns = data.heads.heads.columns(head.name)
        weight = held_out.weight if held_out.weight.ndim == 1 else held_out.weight[:, position]
        fitted.append(calibrate_head(head, logits[:, columns], held_out.target[:, columns], weight))
    return tuple(fitted)


def calibrate_head(head: Head, logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit the temperatures of a head: one of a softmax head, one for each label of a sigmoid head."""
    fit_head = calibrate if head.activation == SOFTMAX else calibrate_labels
    return fit_head(logits, target, weight)


def unsoftened(settings: MethodSettings, heads: TaughtHeads, scores: Sequence[TeacherScores]) -> Supervision | None:
    """The supervision without the temperature of a method that softens it by one; None of other methods."""
    if "distillation_temperature" not in method_named(settings.name).parameters:
        return None
    return supervise(replace(settings, distillation_temperature=1.0), heads, scores)


def held_out_logits(student: Student, texts: BuildTexts) -> np.ndarray:
    """Logits of a student on the held-out texts, ``(n_held_out, n_labels)``."""
    return predict_texts(
        TorchRunner(student.model, sites=(), device="cpu"),
        student.tokenizer,
        texts.corpus.take(texts.held_out),
        max_length=student.tokenizer.model_max_length,
    )

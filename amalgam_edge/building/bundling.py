"""From the student that ships to the bundle: the cascade's threshold, the manifest, the files for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from amalgam_edge import environment
from amalgam_edge.building.cascading import CascadeStudent, add_cascade
from amalgam_edge.building.choosing import ChosenStudent
from amalgam_edge.building.data import Models, TrainingData
from amalgam_edge.building.evaluating import EvaluatedBuild, open_model
from amalgam_edge.heads import SIGMOID, Head
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads, scores_of
from amalgam_edge.metrics import calibration
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Say
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import CascadeSettings
from amalgam_edge.reports.build_report import ReportData, render_report
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, MODEL_FILES, RECIPE, REPORT
from amalgam_edge.runtime.manifest import Manifest, finite, write_manifest
from amalgam_edge.runtime.manifest_heads import BundleHead, Label, LabelSource
from amalgam_edge.runtime.manifest_models import Calibration, Cascade, GoldCalibration
from amalgam_edge.runtime.manifest_origin import (
    CorpusCounts,
    Machine,
    SourceTeacher,
    StudentFacts,
    TrainingPoint,
)
from amalgam_edge.scoring.scores import TeacherScores, certainty
from amalgam_edge.storage.records import from_json


def set_cascade_threshold(
    cascade_student: CascadeStudent,
    chosen: ChosenStudent,
    data: TrainingData,
    cascade_settings: CascadeSettings,
    folder: Path,
    say: Say,
) -> Cascade:
    """Put the static student into the bundle, if some threshold keeps the agreement; the manifest's account of it."""
    held_out = data.texts.corpus.take(data.texts.held_out)
    encoder = open_model(chosen.student, folder, folder / MODEL_FILES[chosen.models.default_precision])
    return add_cascade(cascade_student, folder, encoder, held_out, cascade_settings.agreement, say)


def write_bundle(
    recipe: Recipe,
    models: Models,
    data: TrainingData,
    chosen: ChosenStudent,
    cascade: Cascade | None,
    evaluation: EvaluatedBuild | None,
    folder: Path,
) -> Manifest:
    """Describe the student whose models are in ``folder``: recipe, model card, report, manifest.

    Returns:
        The manifest.
    """
    if recipe.export.include_torch:
        chosen.student.model.save_pretrained(folder)
    manifest = _describe(recipe, models, data, chosen, cascade, evaluation)
    (folder / RECIPE).write_text(recipe.to_yaml(), "utf-8")
    (folder / CARD).write_text(render_model_card(manifest, Path(recipe.output.folder).name), "utf-8")
    evaluated = evaluation.heads if evaluation else {}
    confusions = {name: head.confusion for name, head in evaluated.items() if head.confusion is not None}
    curves = {name: head.curves for name, head in evaluated.items()}
    (folder / REPORT).write_text(render_report(manifest, ReportData(data.scores, confusions, curves)), "utf-8")
    return write_manifest(folder, manifest)


def _describe(
    recipe: Recipe,
    models: Models,
    data: TrainingData,
    chosen: ChosenStudent,
    cascade: Cascade | None,
    evaluation: EvaluatedBuild | None,
) -> Manifest:
    """The manifest of the bundle, but for its files."""
    trained, variant, tokenizer = chosen.trained, chosen.variant, chosen.student.tokenizer
    return Manifest(
        versions=environment.installed_versions(),
        machine=from_json(Machine, environment.describe_machine()),
        heads=_describe_heads(data, chosen, evaluation),
        teachers=describe_teachers(models.teachers, data.heads, data.scores, data.supervision),
        corpus=_describe_corpus(data),
        recipe=recipe.as_dict(),
        recipe_fingerprint=recipe.fingerprint(),
        supervision=data.supervision.digest(),
        training=tuple(map(_training_point, trained.history)),
        student=StudentFacts(trained.layers, variant.n_tokens, trained.agreement),
        vocabulary=variant.vocabulary,
        model_type=chosen.student.model.config.model_type,
        max_length=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        **vars(chosen.models),
        cascade=cascade,
        evaluation=evaluation.accuracies if evaluation else None,
    )


def _describe_heads(
    data: TrainingData, chosen: ChosenStudent, evaluation: EvaluatedBuild | None
) -> tuple[BundleHead, ...]:
    return tuple(
        BundleHead(
            name=taught.head.name,
            activation=taught.head.activation,
            labels=describe_labels(taught),
            weight=taught.weight,
            abstain=taught.head.abstain,
            calibration=_describe_calibration(taught.head, position, chosen, evaluation),
            agreement=chosen.trained.agreements[position],
        )
        for position, taught in enumerate(data.heads)
    )


def _describe_calibration(
    head: Head, position: int, chosen: ChosenStudent, evaluation: EvaluatedBuild | None
) -> Calibration | None:
    """The temperatures of a head, with calibration errors on true labels where there are any."""
    if not chosen.variant.calibrations:
        return None
    gold = None
    if evaluation is not None and head.name in evaluation.heads:
        before, after = (curve.error for curve in evaluation.heads[head.name].curves.values())
        gold = GoldCalibration(evaluation.accuracies.heads[head.name].n_texts, before, after)
    return describe_calibration(head, chosen.variant.calibrations[position], gold)


def describe_calibration(
    head: Head, fitted: calibration.Calibration, gold: GoldCalibration | None = None
) -> Calibration:
    """The temperatures of a head as the manifest holds them: one number of a softmax head."""
    temperatures = fitted.temperatures if head.activation == SIGMOID else fitted.temperatures[:1]
    return Calibration(temperatures, fitted.n_texts, fitted.ece_before, fitted.ece_after, gold)


def describe_labels(taught: TaughtHead) -> tuple[Label, ...]:
    """The labels of a head, with the teachers' classes that each stands for."""
    thresholds = taught.head.thresholds or (None,) * len(taught.head)
    return tuple(
        Label(name, tuple(LabelSource(source["teacher"], source["class"]) for source in sources), threshold)
        for (name, sources), threshold in zip(taught.labels.sources().items(), thresholds, strict=True)
    )


def describe_teachers(
    teachers: Sequence[Teacher], heads: TaughtHeads, scores: Sequence[TeacherScores], supervision: Supervision
) -> tuple[SourceTeacher, ...]:
    """Each teacher, with the share of texts on which it was the most trusted of its head."""
    uncertainty = {each.teacher: float(each.uncertainty.mean()) for each in scores}
    trusted = [_most_trusted(heads.taught, scores, supervision, position) for position in range(len(heads))]
    return tuple(
        SourceTeacher(
            name=teacher.name,
            source=teacher.source,
            from_hub=not Path(teacher.source).exists(),
            fingerprint=teacher.fingerprint,
            head=taught.head.name,
            labels=tuple(taught.labels.names[column] for column in taught.labels.columns[teacher.name]),
            dropout_sites=len(teacher.sites),
            mean_uncertainty=uncertainty[teacher.name],
            picked_share=float((trusted[position] == taught.teachers.index(teacher.name)).mean()),
        )
        for teacher in teachers
        for position, taught in enumerate(heads)
        if teacher.name in taught.teachers
    )


def _most_trusted(
    heads: Sequence[TaughtHead], scores: Sequence[TeacherScores], supervision: Supervision, position: int
) -> np.ndarray:
    """The most trusted teacher of a head for each text, ``(n_texts,)``; where the method has none, the most certain."""
    picked = supervision.picked
    trusted: np.ndarray = picked if picked.ndim == 1 else picked[:, position]
    own = scores_of(heads[position], scores)
    most_certain: np.ndarray = certainty(own).argmax(axis=1)
    return trusted if (trusted >= 0).all() else most_certain


def _describe_corpus(data: TrainingData) -> CorpusCounts:
    corpus = data.texts.corpus
    return CorpusCounts(
        fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        n_train=len(data.texts.train),
        n_blank=corpus.n_blank,
        n_duplicate=corpus.n_duplicate,
        n_failed=data.texts.n_failed,
        n_truncated=data.tokenized.n_truncated,
    )


def _training_point(entry: Mapping[str, float]) -> TrainingPoint:
    losses = {name: finite(loss) for name, loss in entry.items() if name in ("loss", "held_out_loss")}
    return TrainingPoint(int(entry["step"]), entry["epoch"], **losses)

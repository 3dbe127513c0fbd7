"""From the student that ships to the bundle: the cascade's threshold, the manifest, the files for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from amalgam_edge import environment
from amalgam_edge.building.cascading import CascadeStudent, add_cascade
from amalgam_edge.building.choosing import ChosenStudent
from amalgam_edge.building.data import Models, TrainingData
from amalgam_edge.building.evaluating import EvaluatedBuild, open_model
from amalgam_edge.labels import LabelSpace
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Say
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import CascadeSettings
from amalgam_edge.reports.build_report import ReportData, render_report
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, MODEL_FILES, RECIPE, REPORT
from amalgam_edge.runtime.manifest import Manifest, finite, write_manifest
from amalgam_edge.runtime.manifest_models import Calibration, Cascade, GoldCalibration
from amalgam_edge.runtime.manifest_origin import (
    CorpusCounts,
    Label,
    LabelSource,
    Machine,
    SourceTeacher,
    StudentFacts,
    TrainingPoint,
)
from amalgam_edge.scoring.scores import certainty
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
    confusion, curves = (evaluation.confusion, dict(evaluation.curves)) if evaluation else (None, {})
    (folder / REPORT).write_text(render_report(manifest, ReportData(data.scores, confusion, curves)), "utf-8")
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
        labels=_describe_labels(data.labels),
        teachers=_describe_teachers(models.teachers, data),
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
        calibration=_describe_calibration(chosen, evaluation),
        abstain=recipe.export.abstain,
        cascade=cascade,
        evaluation=evaluation.accuracies if evaluation else None,
    )


def _describe_calibration(chosen: ChosenStudent, evaluation: EvaluatedBuild | None) -> Calibration | None:
    """The temperature, with calibration errors on true labels where there are any."""
    if chosen.variant.calibration is None:
        return None
    calibration = Calibration(**vars(chosen.variant.calibration), gold=None)
    if evaluation is None:
        return calibration
    before, after = (curve.error for curve in evaluation.curves.values())
    return replace(calibration, gold=GoldCalibration(evaluation.accuracies.n_texts, before, after))


def _describe_labels(labels: LabelSpace) -> tuple[Label, ...]:
    return tuple(
        Label(name, tuple(LabelSource(source["teacher"], source["class"]) for source in sources))
        for name, sources in labels.sources().items()
    )


def _describe_teachers(teachers: Sequence[Teacher], data: TrainingData) -> tuple[SourceTeacher, ...]:
    """Each teacher, with the share of texts on which it was trusted most."""
    trusted = data.supervision.picked
    most_trusted: np.ndarray = trusted if (trusted >= 0).all() else certainty(data.scores).argmax(axis=1)
    return tuple(
        SourceTeacher(
            name=teacher.name,
            source=teacher.source,
            from_hub=not Path(teacher.source).exists(),
            fingerprint=teacher.fingerprint,
            labels=tuple(data.labels.names[column] for column in data.labels.columns[teacher.name]),
            dropout_sites=len(teacher.sites),
            mean_uncertainty=float(scores.uncertainty.mean()),
            picked_share=float((most_trusted == position).mean()),
        )
        for position, (teacher, scores) in enumerate(zip(teachers, data.scores, strict=True))
    )


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

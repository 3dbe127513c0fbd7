"""From the student that ships to the bundle: the cascade's threshold, the manifest, the files for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amalgam_edge import environment
from amalgam_edge.building.cascading import Companion, add_cascade
from amalgam_edge.building.choosing import ChosenStudent
from amalgam_edge.building.data import Models, TrainingData
from amalgam_edge.building.evaluating import BuildEvaluation, open_model
from amalgam_edge.exporters.selection.bundle_writer import write_manifest
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import CascadeSettings
from amalgam_edge.reports.build_report import ReportData, render_report
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, MODEL_FILES, RECIPE, REPORT
from amalgam_edge.scoring.scores import certainty

Say = Callable[[str], None]


def set_cascade_threshold(
    cascade_student: Companion,
    chosen: ChosenStudent,
    data: TrainingData,
    cascade_settings: CascadeSettings,
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    """Put the static student into the bundle where a threshold keeps the agreement; the manifest's ``cascade``."""
    held_out = data.texts.corpus.take(data.texts.held_out)
    encoder = open_model(chosen.student, folder, folder / MODEL_FILES[chosen.measured["default_precision"]])
    return add_cascade(cascade_student, folder, encoder, held_out, cascade_settings.agreement, say)


def write_bundle(
    recipe: Recipe,
    models: Models,
    data: TrainingData,
    chosen: ChosenStudent,
    cascade: dict[str, Any] | None,
    evaluation: BuildEvaluation | None,
    folder: Path,
) -> dict[str, Any]:
    """Describe the student whose models are in ``folder``: recipe, model card, report, manifest.

    Returns:
        The manifest.
    """
    if recipe.export.include_torch:
        chosen.student.model.save_pretrained(folder)
    manifest = {
        **_origins(recipe, models.teachers, data, chosen),
        **chosen.measured,
        "calibration": _calibration(chosen, evaluation),
        "abstain": recipe.export.abstain,
        "cascade": cascade,
        "evaluation": evaluation.account if evaluation else {},
    }
    (folder / RECIPE).write_text(recipe.to_yaml(), "utf-8")
    (folder / CARD).write_text(render_model_card(manifest, Path(recipe.output.folder).name), "utf-8")
    report = render_report(
        manifest,
        ReportData(
            data.scores,
            chosen.trained.history,
            evaluation.confusion if evaluation else None,
            dict(evaluation.curves) if evaluation else {},
        ),
    )
    (folder / REPORT).write_text(report, "utf-8")
    write_manifest(folder, manifest)
    return manifest


def _calibration(chosen: ChosenStudent, evaluation: BuildEvaluation | None) -> dict[str, Any] | None:
    """The manifest's ``calibration``, with calibration errors on true labels where there are any."""
    if chosen.variant.calibration is None:
        return None
    account = chosen.variant.calibration.as_dict()
    if evaluation is not None:
        before, after = (curve.error for curve in evaluation.curves.values())
        account["gold"] = {"n_texts": evaluation.n_texts, "ece_before": before, "ece_after": after}
    return account


def _origins(recipe: Recipe, teachers: Sequence[Teacher], data: TrainingData, chosen: ChosenStudent) -> dict[str, Any]:
    """The manifest's account of where the student comes from."""
    corpus, sources = data.texts.corpus, data.labels.sources()
    trained, variant = chosen.trained, chosen.variant
    return {
        "versions": environment.installed_versions(),
        "machine": environment.describe_machine(),
        "labels": [{"name": name, "sources": sources[name]} for name in data.labels.names],
        "teachers": _teacher_accounts(teachers, data),
        "corpus": {
            "fingerprint": corpus.fingerprint,
            "n_texts": len(corpus),
            "n_train": len(data.texts.train),
            "n_blank": corpus.n_blank,
            "n_duplicate": corpus.n_duplicate,
            "n_failed": data.texts.n_failed,
            "n_truncated": data.tokenized.n_truncated,
        },
        "recipe": recipe.as_dict(),
        "recipe_fingerprint": recipe.fingerprint(),
        "supervision": data.supervision.digest(),
        "training": trained.history,
        "student": {"layers": trained.layers, "n_tokens": variant.n_tokens, "agreement": trained.agreement},
        "vocabulary": variant.vocabulary,
        "model_type": chosen.student.model.config.model_type,
        "max_length": chosen.student.tokenizer.model_max_length,
        "pad_token_id": chosen.student.tokenizer.pad_token_id,
    }


def _teacher_accounts(teachers: Sequence[Teacher], data: TrainingData) -> list[dict[str, Any]]:
    """The manifest's account of each teacher, with the share of texts on which it was trusted most."""
    trusted = data.supervision.picked
    most_trusted: np.ndarray = trusted if (trusted >= 0).all() else certainty(data.scores).argmax(axis=1)
    return [
        {
            "name": teacher.name,
            "source": teacher.source,
            "from_hub": not Path(teacher.source).exists(),
            "fingerprint": teacher.fingerprint,
            "labels": [data.labels.names[column] for column in data.labels.columns[teacher.name]],
            "dropout_sites": len(teacher.sites),
            "mean_uncertainty": float(scores.uncertainty.mean()),
            "picked_share": float((most_trusted == position).mean()),
        }
        for position, (teacher, scores) in enumerate(zip(teachers, data.scores, strict=True))
    ]

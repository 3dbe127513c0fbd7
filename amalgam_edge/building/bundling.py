"""From the student that ships to the bundle: cascade, evaluation, description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amalgam_edge import environment
from amalgam_edge.building.cascading import Companion, add_cascade
from amalgam_edge.building.choosing import Chosen
from amalgam_edge.building.stages import Lesson, Texts
from amalgam_edge.exporters.selection.bundle_writer import write_manifest
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.labels import LabelSpace
from amalgam_edge.metrics import accuracy as evaluation
from amalgam_edge.metrics.calibration import Reliability, reliability
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.reports.build_report import ReportData, render_report
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, MODEL_FILES, RECIPE, REPORT, TOKENIZER
from amalgam_edge.runtime.cascade import CascadeModel
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.scoring.scores import certainty


@dataclass(frozen=True)
class Made:
    """What a build has made by the time that it is written down.

    Attributes:
        lesson: what the student was made from.
        teachers: that were listened to.
        chosen: the student, whose models lie in the bundle's folder.
        gold: labels of the labelled texts, positions in the label space; None without such texts.
        companion: the static student of a cascade; None where none was asked for.
    """

    lesson: Lesson
    teachers: Sequence[Teacher]
    chosen: Chosen
    gold: np.ndarray | None
    companion: Companion | None = None

    @property
    def recipe(self) -> Recipe:
        """Of the build."""
        return self.lesson.recipe

    @property
    def texts(self) -> Texts:
        """Of the build."""
        return self.lesson.texts

    @property
    def labels(self) -> LabelSpace:
        """That the student answers with."""
        return self.lesson.labels


def write_bundle(made: Made, folder: Path, progress: Progress) -> dict[str, Any]:
    """Measure and describe the student whose models are in ``folder``; returns the manifest."""
    measured = made.chosen.measured
    if made.recipe.include_torch:
        made.chosen.student.model.save_pretrained(folder)
    cascade = None
    if made.companion is not None:
        with progress.step("setting the cascade's threshold"):
            cascade = _add_cascade(made, made.companion, folder, measured["default_precision"], progress)
    evaluated: dict[str, Any] = {}
    confusion = None
    curves: dict[str, Reliability] = {}
    fitted = made.chosen.variant.calibration
    calibration = fitted.as_dict() if fitted else None
    if made.gold is not None:
        with progress.step("evaluating on labelled texts"):
            evaluated, logits = _evaluate(made, made.gold, folder, measured, cascade)
            shipped = logits[measured["default_precision"]]
            confusion = evaluation.confusion_matrix(made.gold, shipped.argmax(axis=1), len(made.labels))
            curves = _reliability(made, made.gold, shipped)
        if calibration is not None:
            before, after = (curve.error for curve in curves.values())
            calibration["gold"] = {"n_texts": len(made.gold), "ece_before": before, "ece_after": after}
    with progress.step("writing the bundle"):
        manifest = {
            **_describe(made),
            **measured,
            "calibration": calibration,
            "abstain": made.recipe.abstain,
            "cascade": cascade,
            "evaluation": evaluated,
        }
        (folder / RECIPE).write_text(made.recipe.to_yaml(), "utf-8")
        (folder / CARD).write_text(render_model_card(manifest, Path(made.recipe.output).name), "utf-8")
        report = render_report(manifest, ReportData(made.lesson.scores, made.chosen.trained.history, confusion, curves))
        (folder / REPORT).write_text(report, "utf-8")
        write_manifest(folder, manifest)
    return manifest


def _open(made: Made, folder: Path, model: Path) -> TextModel:
    tokenizer = made.chosen.student.tokenizer
    return TextModel(
        model, folder / TOKENIZER, max_length=tokenizer.model_max_length, pad_token_id=tokenizer.pad_token_id
    )


def _add_cascade(made: Made, companion: Companion, folder: Path, precision: str, progress: Progress) -> dict[str, Any]:
    held_out = made.texts.corpus.take(made.texts.held_out)
    encoder = _open(made, folder, folder / MODEL_FILES[precision])
    return add_cascade(companion, folder, encoder, held_out, made.recipe.cascade_agreement, progress.say)


def _evaluate(
    made: Made, gold: np.ndarray, folder: Path, measured: dict[str, Any], cascade: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Teachers on the labelled texts of their own labels, the student on all; and its logits by precision.

    The cascade, where there is one, stands beside the precisions.
    """
    assert made.texts.labelled is not None  # noqa: S101  (the caller has checked)
    texts = list(made.texts.labelled.texts)
    abstain = made.recipe.abstain
    logits = {name: _open(made, folder, folder / MODEL_FILES[name]).run(texts)[0] for name in measured["precisions"]}
    if cascade is not None and cascade["file"]:
        encoder = _open(made, folder, folder / MODEL_FILES[measured["default_precision"]])
        logits["cascade"] = CascadeModel(encoder, folder / cascade["file"], cascade["threshold"]).run(texts)[0]
    student = {
        name: {
            **evaluation.accuracy_and_macro_f1(
                evaluation.confusion_matrix(gold, answered.argmax(axis=1), len(made.labels))
            ),
            **(evaluation.answered_share_and_accuracy(gold, answered, abstain) if abstain else {}),
        }
        for name, answered in logits.items()
    }
    teachers = {
        teacher.name: evaluate_teacher(teacher, made.labels, texts, gold, made.recipe) for teacher in made.teachers
    }
    return {"data": made.recipe.evaluate, "n_texts": len(texts), "student": student, "teachers": teachers}, logits


def _reliability(made: Made, gold: np.ndarray, logits: np.ndarray) -> dict[str, Reliability]:
    """Confidence against gold labels before the student's logits were divided by its temperature, and after."""
    truth = np.eye(len(made.labels))[gold]
    variant = made.chosen.variant
    curves = {"as trained": reliability(logits, truth, temperature=1 / variant.temperature)}
    if variant.calibration is not None:
        curves["calibrated"] = reliability(logits, truth)
    return curves


def evaluate_teacher(
    teacher: Teacher, labels: LabelSpace, texts: Sequence[str], gold: np.ndarray, recipe: Recipe
) -> dict[str, Any]:
    """A teacher's accuracy on the texts whose gold label is one of its own; None where there are none."""
    own = np.flatnonzero(np.isin(gold, labels.columns[teacher.name]))
    if len(own) == 0:
        return {"accuracy": None, "n_texts": 0}
    logits = predict_texts(
        TorchRunner(teacher.model, teacher.sites, device=recipe.device),
        teacher.tokenizer,
        [texts[int(row)] for row in own],
        max_length=teacher.max_length,
    )
    predicted = np.array(labels.columns[teacher.name])[logits.argmax(axis=1)]
    return {"accuracy": evaluation.accuracy(gold[own], predicted), "n_texts": len(own)}


def _describe(made: Made) -> dict[str, Any]:
    """The manifest's account of where the student comes from."""
    corpus = made.texts.corpus
    sources = made.labels.sources()
    trained, variant = made.chosen.trained, made.chosen.variant
    scores_of = made.lesson.scores
    trusted = made.lesson.supervision.picked
    picked = trusted if (trusted >= 0).all() else certainty(scores_of).argmax(axis=1)
    return {
        "versions": environment.installed_versions(),
        "machine": environment.describe_machine(),
        "labels": [{"name": name, "sources": sources[name]} for name in made.labels.names],
        "teachers": [
            {
                "name": teacher.name,
                "source": teacher.source,
                "from_hub": not Path(teacher.source).exists(),
                "fingerprint": teacher.fingerprint,
                "labels": [made.labels.names[column] for column in made.labels.columns[teacher.name]],
                "dropout_sites": len(teacher.sites),
                "mean_uncertainty": float(scores.uncertainty.mean()),
                "picked_share": float((picked == position).mean()),
            }
            for position, (teacher, scores) in enumerate(zip(made.teachers, scores_of, strict=True))
        ],
        "corpus": {
            "fingerprint": corpus.fingerprint,
            "n_texts": len(corpus),
            "n_train": len(made.texts.train),
            "n_blank": corpus.n_blank,
            "n_duplicate": corpus.n_duplicate,
            "n_failed": made.texts.n_failed,
            "n_truncated": made.lesson.tokenized.n_truncated,
        },
        "recipe": made.recipe.model_dump(),
        "recipe_fingerprint": made.recipe.fingerprint(),
        "supervision": made.lesson.supervision.digest(),
        "training": trained.history,
        "student": {"layers": trained.layers, "n_tokens": variant.n_tokens, "agreement": trained.agreement},
        "vocabulary": variant.vocabulary,
        "model_type": made.chosen.student.model.config.model_type,
        "max_length": made.chosen.student.tokenizer.model_max_length,
        "pad_token_id": made.chosen.student.tokenizer.pad_token_id,
    }

"""From the student that ships to the bundle: cascade, evaluation, description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amalgam_edge import environment
from amalgam_edge.building.cascading import Companion, add_cascade
from amalgam_edge.building.choosing import Chosen
from amalgam_edge.building.stages import Lesson, Texts
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
from amalgam_edge.runtime.manifest import Manifest, finite, write_manifest
from amalgam_edge.runtime.manifest_models import (
    Answered,
    BuildEvaluation,
    Calibration,
    Cascade,
    GoldCalibration,
    ModelAccuracy,
    TeacherAccuracy,
)
from amalgam_edge.runtime.manifest_origin import (
    CorpusCounts,
    Label,
    LabelSource,
    Machine,
    SourceTeacher,
    StudentFacts,
    TrainingPoint,
)
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.scoring.scores import certainty
from amalgam_edge.storage.records import from_json


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


def write_bundle(made: Made, folder: Path, progress: Progress) -> Manifest:
    """Measure and describe the student whose models are in ``folder``; returns the manifest."""
    default = made.chosen.models.default_precision
    if made.recipe.include_torch:
        made.chosen.student.model.save_pretrained(folder)
    cascade = None
    if made.companion is not None:
        with progress.step("setting the cascade's threshold"):
            cascade = _add_cascade(made, made.companion, folder, default, progress)
    evaluated = confusion = None
    curves: dict[str, Reliability] = {}
    fitted = made.chosen.variant.calibration
    calibration = Calibration(**vars(fitted), gold=None) if fitted else None
    if made.gold is not None:
        with progress.step("evaluating on labelled texts"):
            evaluated, logits = _evaluate(made, made.gold, folder, cascade)
            shipped = logits[default]
            confusion = evaluation.confusion_matrix(made.gold, shipped.argmax(axis=1), len(made.labels))
            curves = _reliability(made, made.gold, shipped)
        if calibration is not None:
            before, after = (curve.error for curve in curves.values())
            calibration = replace(calibration, gold=GoldCalibration(len(made.gold), before, after))
    with progress.step("writing the bundle"):
        manifest = _describe(made, calibration, cascade, evaluated)
        (folder / RECIPE).write_text(made.recipe.to_yaml(), "utf-8")
        (folder / CARD).write_text(render_model_card(manifest, Path(made.recipe.output).name), "utf-8")
        report = render_report(manifest, ReportData(made.lesson.scores, confusion, curves))
        (folder / REPORT).write_text(report, "utf-8")
        return write_manifest(folder, manifest)


def _open(made: Made, folder: Path, model: Path) -> TextModel:
    tokenizer = made.chosen.student.tokenizer
    return TextModel(
        model, folder / TOKENIZER, max_length=tokenizer.model_max_length, pad_token_id=tokenizer.pad_token_id
    )


def _add_cascade(made: Made, companion: Companion, folder: Path, precision: str, progress: Progress) -> Cascade:
    held_out = made.texts.corpus.take(made.texts.held_out)
    encoder = _open(made, folder, folder / MODEL_FILES[precision])
    return add_cascade(companion, folder, encoder, held_out, made.recipe.cascade_agreement, progress.say)


def _evaluate(
    made: Made, gold: np.ndarray, folder: Path, cascade: Cascade | None
) -> tuple[BuildEvaluation, dict[str, np.ndarray]]:
    """Teachers on the labelled texts of their own labels, the student on all; and its logits by precision.

    The cascade, where there is one, stands beside the precisions.
    """
    assert made.texts.labelled is not None  # noqa: S101  (the caller has checked)
    texts = list(made.texts.labelled.texts)
    abstain = made.recipe.abstain
    models = made.chosen.models
    logits = {name: _open(made, folder, folder / MODEL_FILES[name]).run(texts)[0] for name in models.precisions}
    if cascade is not None and cascade.static_model is not None:
        static, encoder = cascade.static_model, _open(made, folder, folder / MODEL_FILES[models.default_precision])
        logits["cascade"] = CascadeModel(encoder, folder / static.file, static.threshold).run(texts)[0]
    student = {
        name: ModelAccuracy(
            **evaluation.measure(gold, answered.argmax(axis=1), len(made.labels))[0],
            abstaining=from_json(Answered, evaluation.measure_answered(gold, answered, abstain)) if abstain else None,
        )
        for name, answered in logits.items()
    }
    teachers = {
        teacher.name: evaluate_teacher(teacher, made.labels, texts, gold, made.recipe) for teacher in made.teachers
    }
    return BuildEvaluation(str(made.recipe.evaluate), len(texts), student, teachers), logits


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
) -> TeacherAccuracy:
    """A teacher's accuracy on the texts whose gold label is one of its own; None where there are none."""
    own = np.flatnonzero(np.isin(gold, labels.columns[teacher.name]))
    if len(own) == 0:
        return TeacherAccuracy(accuracy=None, n_texts=0)
    logits = predict_texts(
        TorchRunner(teacher.model, teacher.sites, device=recipe.device),
        teacher.tokenizer,
        [texts[int(row)] for row in own],
        max_length=teacher.max_length,
    )
    predicted = np.array(labels.columns[teacher.name])[logits.argmax(axis=1)]
    return TeacherAccuracy(evaluation.accuracy(gold[own], predicted), len(own))


def _describe(
    made: Made, calibration: Calibration | None, cascade: Cascade | None, evaluated: BuildEvaluation | None
) -> Manifest:
    """The manifest of the bundle, but for its files."""
    trained, variant, tokenizer = made.chosen.trained, made.chosen.variant, made.chosen.student.tokenizer
    return Manifest(
        versions=environment.installed_versions(),
        machine=from_json(Machine, environment.describe_machine()),
        labels=_describe_labels(made.labels),
        teachers=_describe_teachers(made),
        corpus=_describe_corpus(made),
        recipe=made.recipe.model_dump(),
        recipe_fingerprint=made.recipe.fingerprint(),
        supervision=made.lesson.supervision.digest(),
        training=tuple(map(_training_point, trained.history)),
        student=StudentFacts(trained.layers, variant.n_tokens, trained.agreement),
        vocabulary=variant.vocabulary,
        model_type=made.chosen.student.model.config.model_type,
        max_length=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        **vars(made.chosen.models),
        calibration=calibration,
        abstain=made.recipe.abstain,
        cascade=cascade,
        evaluation=evaluated,
    )


def _describe_labels(labels: LabelSpace) -> tuple[Label, ...]:
    return tuple(
        Label(name, tuple(LabelSource(source["teacher"], source["class"]) for source in sources))
        for name, sources in labels.sources().items()
    )


def _describe_teachers(made: Made) -> tuple[SourceTeacher, ...]:
    scores_of = made.lesson.scores
    trusted = made.lesson.supervision.picked
    picked = trusted if (trusted >= 0).all() else certainty(scores_of).argmax(axis=1)
    return tuple(
        SourceTeacher(
            name=teacher.name,
            source=teacher.source,
            from_hub=not Path(teacher.source).exists(),
            fingerprint=teacher.fingerprint,
            labels=tuple(made.labels.names[column] for column in made.labels.columns[teacher.name]),
            dropout_sites=len(teacher.sites),
            mean_uncertainty=float(scores.uncertainty.mean()),
            picked_share=float((picked == position).mean()),
        )
        for position, (teacher, scores) in enumerate(zip(made.teachers, scores_of, strict=True))
    )


def _describe_corpus(made: Made) -> CorpusCounts:
    corpus = made.texts.corpus
    return CorpusCounts(
        fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        n_train=len(made.texts.train),
        n_blank=corpus.n_blank,
        n_duplicate=corpus.n_duplicate,
        n_failed=made.texts.n_failed,
        n_truncated=made.lesson.tokenized.n_truncated,
    )


def _training_point(entry: Mapping[str, float]) -> TrainingPoint:
    losses = {name: finite(loss) for name, loss in entry.items() if name in ("loss", "held_out_loss")}
    return TrainingPoint(int(entry["step"]), entry["epoch"], **losses)

"""The steps of a build in their order: what each needs and what it makes.

A step is a function whose parameters are the names of the values that it needs, see :mod:`amalgam_edge.steps`. The
settings of a recipe are values too, a section each, so that the list shows which step reads which settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from amalgam_edge.building import (
    bundling,
    cascading,
    choosing,
    competing,
    evaluating,
    hinting,
    inputs,
    students,
    supervising,
)
from amalgam_edge.building.budget import Budget
from amalgam_edge.building.candidates import MeasuredStudent
from amalgam_edge.building.checks import teacher_names
from amalgam_edge.building.data import (
    BuildTexts,
    Models,
    ScoredTexts,
    StudentVariant,
    TrainedStudent,
    TrainingData,
)
from amalgam_edge.building.processes import ProcessGroup
from amalgam_edge.corpus import Corpus
from amalgam_edge.methods import method_named
from amalgam_edge.models.checkpoints import heads_of
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Advance, Say
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import (
    CascadeSettings,
    ComputeSettings,
    CorpusSettings,
    ExportSettings,
    HintSettings,
    MethodSettings,
    ScoringSettings,
    StudentSettings,
    TeacherSettings,
    TrainingSettings,
)
from amalgam_edge.scoring.backends import Backend
from amalgam_edge.scoring.hidden_states import HiddenStates
from amalgam_edge.scoring.run import cached_stores, scoring_steps
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.steps import Step


def build_steps(recipe: Recipe, backend: Backend) -> list[Step]:
    """The steps of a build, in order.

    Args:
        recipe: What to build.
        backend: What runs the teachers, named in titles.
    """
    return [
        Step(inputs.read_texts, makes="texts", title="reading texts"),
        *([Step(cascading.require_texts)] if recipe.cascade.enabled else []),
        Step(inputs.load_models, makes="models", title="loading teachers and student"),
        Step(_check_hints),
        Step(_corpus, makes="corpus"),
        Step(_teachers, makes="teachers"),
        Step(_cached_stores, makes="stores"),
        *scoring_steps(teacher_names(recipe.teachers), recipe.scoring, recipe.compute, backend),
        Step(_read_scores, makes="scored"),
        Step(_check_heads),
        *_supervision_steps(recipe),
        *_training_steps(recipe),
        *_export_steps(recipe),
        *(_cascade_steps() if recipe.cascade.enabled else []),
        *([_EVALUATION] if recipe.evaluation.source else []),
        Step(bundling.write_bundle, makes="manifest", title="writing the bundle"),
    ]


def _check_hints(texts: BuildTexts, models: Models, hint_settings: HintSettings, say: Say) -> None:
    hinting.check_hints(texts, models.heads, hint_settings, say)


def _corpus(texts: BuildTexts) -> Corpus:
    return texts.corpus


def _teachers(models: Models) -> Sequence[Teacher]:
    return models.teachers


def _cached_stores(
    teachers: Sequence[Teacher], corpus: Corpus, scoring_settings: ScoringSettings, work_folder: Path
) -> list[ScoreStore]:
    return cached_stores(work_folder, teachers, corpus, scoring_settings)


def _read_scores(
    models: Models,
    stores: Sequence[ScoreStore],
    texts: BuildTexts,
    corpus_settings: CorpusSettings,
    work_folder: Path,
    say: Say,
) -> ScoredTexts:
    scores = [store.read() for store in stores]
    return ScoredTexts(
        *inputs.drop_unscored(texts, models.tokenized, scores, corpus_settings.held_out, work_folder, say)
    )


def _check_heads(
    models: Models, scored: ScoredTexts, teacher_settings: TeacherSettings, work_folder: Path, say: Say
) -> None:
    competing.check_heads(models.heads, scored.scores, teacher_settings, say, str(work_folder / "scores"))


def _supervision_steps(recipe: Recipe) -> Iterator[Step]:
    method = method_named(recipe.method.name)
    if method.reads_hidden:
        yield Step(_hidden_states, makes="hidden", title="reading hidden states", amount=_amount_of_hidden_states)
    if method.needs_features(heads_of(recipe.teachers).values()):
        title = "reading the texts with the student's encoder"
        yield Step(_student_features, makes="features", title=title, amount=_amount_of_scored_texts)
    yield Step(_training_data, makes="data")


def _amount_of_scored_texts(scored: ScoredTexts) -> tuple[int, str]:
    return len(scored.texts.corpus), "texts"


def _amount_of_hidden_states(models: Models, scored: ScoredTexts) -> tuple[int, str]:
    return len(scored.texts.corpus) * len(models.teachers), "texts"


def _hidden_states(
    models: Models,
    scored: ScoredTexts,
    backend: Backend,
    compute_settings: ComputeSettings,
    work_folder: Path,
    advance: Advance,
) -> tuple[HiddenStates, ...]:
    batch_tokens = compute_settings.batch_tokens or backend.batch_tokens
    return supervising.hidden_states(
        models.teachers, scored.texts.corpus, work_folder, compute_settings.device, batch_tokens, advance
    )


def _student_features(
    models: Models,
    scored: ScoredTexts,
    backend: Backend,
    student_settings: StudentSettings,
    compute_settings: ComputeSettings,
    work_folder: Path,
    advance: Advance,
) -> np.ndarray:
    batch_tokens = compute_settings.batch_tokens or backend.batch_tokens
    return supervising.student_features(
        student_settings, models.teachers, scored.texts.corpus, work_folder, batch_tokens, advance
    )


def _training_data(
    models: Models,
    scored: ScoredTexts,
    method_settings: MethodSettings,
    hint_settings: HintSettings,
    hidden: Sequence[HiddenStates],
    features: np.ndarray | None,
) -> TrainingData:
    method = method_named(method_settings.name)
    hints = hinting.find_hints(scored.texts, models.heads, hint_settings)
    return TrainingData(
        texts=scored.texts,
        tokenized=scored.tokenized,
        heads=models.heads,
        scores=scored.scores,
        supervision=supervising.supervise(method_settings, models.heads, scored.scores, features, hints),
        signals=supervising.teacher_signals(method, scored.scores, hidden),
    )


def _training_steps(recipe: Recipe) -> Iterator[Step]:
    for position, (title, subtitle) in enumerate(_student_titles(recipe)):
        name, renames = f"trained_{position}", {"trained": f"trained_{position}"}
        several = len(recipe.student.layer_counts) > 1
        train = partial(_train_student, position=position, several=several)
        yield Step(train, makes=name, title=f"training {title}", amount=_amount_of_updates)
        if recipe.export.trim_vocabulary:
            yield Step(_trim_student, makes=name, title=f"trimming the vocabulary{subtitle}", renames=renames)
        if recipe.export.calibrate:
            yield Step(_calibrate_student, makes=name, title=f"calibrating{subtitle}", renames=renames)


def _student_titles(recipe: Recipe) -> list[tuple[str, str]]:
    """What each student is called in titles: as an object, and as an addition."""
    counts = recipe.student.layer_counts
    if len(counts) == 1:
        return [("the student", "")]
    return [(f"the student of {layers} layers", f", {layers} layers") for layers in counts]


def _amount_of_updates(data: TrainingData, training_settings: TrainingSettings) -> tuple[int, str]:
    return training_settings.n_updates(len(data.texts.train)), "updates"


def _train_student(
    models: Models,
    data: TrainingData,
    method_settings: MethodSettings,
    training_settings: TrainingSettings,
    training_folder: Path,
    processes: ProcessGroup | None,
    resume: bool,
    advance: Advance,
    *,
    position: int = 0,
    several: bool = False,
) -> TrainedStudent:
    """Train a student; one of several has a folder of checkpoints of its own."""
    student = models.students[position]
    layers = inputs.layers_of(student)
    train = students.train if processes is None else processes.train
    folder = training_folder / f"{layers}-layers" if several else training_folder
    history = train(student, data, method_settings, training_settings, folder, advance, resume=resume)
    agreements = students.agreements_with_supervision(student, data)
    return TrainedStudent(layers, history, agreements, [StudentVariant(student)])


def _trim_student(
    trained: TrainedStudent, data: TrainingData, budget: Budget | None, export_settings: ExportSettings, say: Say
) -> TrainedStudent:
    """Trim the vocabulary. Under a budget half of the labels that may change are left for quantization to change."""
    allowed = _max_disagreement(budget, export_settings)
    if budget is not None:
        allowed /= 2
    student = trained.variants[0].student
    variants = students.trimmed_variants(student, data, allowed, say, keep_whole=budget is not None)
    return replace(trained, variants=variants)


def _max_disagreement(budget: Budget | None, export_settings: ExportSettings) -> float:
    return export_settings.max_disagreement if budget is None else budget.max_disagreement


def _calibrate_student(trained: TrainedStudent, data: TrainingData, method_settings: MethodSettings) -> TrainedStudent:
    variants = [students.calibrated(variant, data, method_settings) for variant in trained.variants]
    return replace(trained, variants=variants)


def _export_steps(recipe: Recipe) -> Iterator[Step]:
    titles = _student_titles(recipe)
    for position, (_, subtitle) in enumerate(titles):
        exported = f"exported_{position}"
        yield Step(
            partial(_export_variants, several=len(titles) > 1),
            makes=exported,
            title=f"exporting to ONNX{subtitle}",
            renames={"trained": f"trained_{position}"},
        )
        yield Step(
            _measure_variants,
            makes=f"measured_{position}",
            title=f"quantizing and measuring{subtitle}",
            renames={"exported": exported},
        )
    several = {name: [f"{name}_{position}" for position in range(len(titles))] for name in ("exported", "measured")}
    yield Step(choosing.choose_student, makes="chosen", renames=several)


def _export_variants(
    trained: TrainedStudent,
    data: TrainingData,
    budget: Budget | None,
    export_settings: ExportSettings,
    folder: Path,
    say: Say,
    *,
    several: bool = False,
) -> list[choosing.ExportedVariant]:
    allowed = _max_disagreement(budget, export_settings)
    return choosing.export_variants(trained, data.texts, data.heads.heads, allowed, folder, say, several=several)


def _measure_variants(exported: Sequence[choosing.ExportedVariant], budget: Budget | None) -> list[MeasuredStudent]:
    return choosing.measure_variants(exported, every_precision=budget is not None)


def _cascade_steps() -> list[Step]:
    return [
        Step(
            _train_cascade_student,
            makes="cascade_student",
            title="training the cascade's static student",
            amount=_amount_of_cascade_updates,
        ),
        Step(bundling.set_cascade_threshold, makes="cascade", title="setting the cascade's threshold"),
    ]


def _amount_of_cascade_updates(data: TrainingData, training_settings: TrainingSettings) -> tuple[int, str]:
    return cascading.n_updates(training_settings, len(data.texts.train)), "updates"


def _train_cascade_student(
    chosen: choosing.ChosenStudent,
    data: TrainingData,
    cascade_settings: CascadeSettings,
    training_settings: TrainingSettings,
    training_folder: Path,
    advance: Advance,
) -> cascading.CascadeStudent:
    folder = training_folder.with_name(f"{training_folder.name}-static")
    return cascading.train_cascade_student(
        chosen.student, data.texts, data.heads.heads, cascade_settings, training_settings, folder, advance
    )


_EVALUATION = Step(evaluating.evaluate_models, makes="evaluation", title="evaluating on labelled texts")

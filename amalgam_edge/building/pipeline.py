"""The one command: teachers and texts in, a bundle out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from amalgam_edge.building import cascading, stages
from amalgam_edge.building.bundling import Made, write_bundle
from amalgam_edge.building.choosing import choose_student
from amalgam_edge.building.processes import Company, Launched
from amalgam_edge.building.stages import Lesson, Student, Trained, Variant
from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.selection.bundle_writer import check_output
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime.bundle import MANIFEST, Bundle
from amalgam_edge.storage.files import is_url
from amalgam_edge.storage.staging import staged
from amalgam_edge.training.fitting import check_logger


def build(
    recipe: Recipe,
    progress: Progress,
    *,
    overwrite: bool = False,
    resume: bool = False,
    company: Company | None = None,
) -> dict[str, Any]:
    """Build a bundle.

    Args:
        recipe: what to build.
        progress: told of each step.
        overwrite: replace a bundle that stands in the output folder.
        resume: go on with a build that was cut off; where it had finished, there is nothing to do.
        company: the processes that train the student; None for as many as the recipe says.

    Returns:
        The bundle's manifest. ``manifest["gate"]["passed"]`` tells whether int8 kept within its budget.

    Raises:
        AmalgamError: a mistake in the recipe or in what it names; nothing is left in the output folder.
    """
    if company is None and recipe.launch > 1:
        company = Launched(recipe.launch)
    _check(recipe, company)
    output = Path(recipe.output)
    check_output(output, overwrite=overwrite, resume=resume)
    if resume and not overwrite and (output / MANIFEST).is_file():
        manifest = _finished(output, recipe)
        progress.say(f"{output}: finished already, nothing to do")
        return manifest

    method, _ = stages.method_of(recipe)
    a_student = 3 + recipe.trim_vocabulary + recipe.calibrate
    steps = (
        3
        + method.reads_hidden
        + method.reads_features
        + 2 * recipe.cascade
        + bool(recipe.evaluate)
        + len(recipe.layer_counts) * a_student
    )
    progress.begin(steps + stages.n_scoring_steps(recipe))
    with progress.step("reading texts"):
        texts = stages.read_texts(recipe)
        if recipe.cascade:
            cascading.require_texts(texts)
    with progress.step("loading teachers and student"):
        teachers, labels, students = stages.load_models(recipe)
        gold = labels.encode(texts.labelled.labels) if texts.labelled else None
        tokenizer = students[0].tokenizer
        tokenized = stages.tokenize(texts.corpus, tokenizer)
    _say_corpus(texts.corpus, tokenized.n_truncated, tokenizer.model_max_length, progress)
    for warning in labels.warnings:
        progress.say(f"warning: {warning}")

    stores = stages.cached_stores(recipe, teachers, texts.corpus)
    stages.score(recipe, teachers, stores, texts.corpus, progress)
    texts, tokenized, scores = stages.only_scored(
        recipe, texts, tokenized, [store.read() for store in stores], progress
    )
    told = stages.tell(recipe, teachers, texts.corpus, scores, progress)
    supervision = stages.supervise(recipe, teachers, texts, labels, scores, progress)
    lesson = Lesson(recipe, texts, tokenized, labels, scores, supervision, told)
    training_folder = recipe.work_folder / f"training-{recipe.fingerprint()[:12]}"
    trained = [
        _train(student, lesson, training_folder, progress, company, several=len(students) > 1, resume=resume)
        for student in students
    ]
    with staged(output) as folder:
        chosen = choose_student(lesson, trained, folder, progress)
        companion = None
        if recipe.cascade:
            n_updates = cascading.n_updates(stages.training_settings(recipe, static=True), len(texts.train))
            with progress.step("training the cascade's static student", n_updates, "updates") as advance:
                companion = cascading.train_companion(
                    chosen.student,
                    texts,
                    labels.names,
                    recipe,
                    training_folder.with_name(f"{training_folder.name}-static"),
                    advance,
                )
        manifest = write_bundle(Made(lesson, teachers, chosen, gold, companion), folder, progress)
    shutil.rmtree(training_folder, ignore_errors=True)
    return manifest


def _train(
    student: Student,
    lesson: Lesson,
    folder: Path,
    progress: Progress,
    company: Company | None,
    *,
    several: bool,
    resume: bool,
) -> Trained:
    """Fit a student, and make it ready to ship; one of several is called by its layers and has a folder of its own."""
    recipe, layers = lesson.recipe, stages.layers_of(student)
    settings = stages.training_settings(recipe)
    distil = stages.distil if company is None else company.distil
    title = f"training the student of {layers} layers" if several else "training the student"
    with progress.step(title, settings.n_updates(len(lesson.texts.train)), "updates") as advance:
        history = distil(
            student, lesson, settings, folder / f"{layers}-layers" if several else folder, advance, resume=resume
        )
        agreement = stages.agreement_with_supervision(student, lesson.texts, lesson.supervision)
    of_which = f", {layers} layers" if several else ""
    variants = [Variant(student)]
    if recipe.trim_vocabulary:
        with progress.step(f"trimming the vocabulary{of_which}"):
            variants = stages.trimmed_variants(student, lesson, progress)
    if recipe.calibrate:
        with progress.step(f"calibrating{of_which}"):
            variants = [stages.calibrated(variant, lesson) for variant in variants]
    return Trained(layers, history, agreement, variants)


def _finished(output: Path, recipe: Recipe) -> dict[str, Any]:
    manifest = Bundle.open(output).manifest
    if manifest["recipe_fingerprint"] != recipe.fingerprint():
        raise AmalgamError(f"{output}: holds a finished bundle of another recipe; --overwrite replaces it")
    return manifest


def _say_corpus(corpus: Corpus, n_truncated: int, max_length: int, progress: Progress) -> None:
    left_out = f"{corpus.n_duplicate} duplicates and {corpus.n_blank} blank texts left out"
    cut = f"; {n_truncated} longer than {max_length} tokens are cut" if n_truncated else ""
    progress.say(f"corpus: {len(corpus)} texts ({left_out}){cut}")


def _check(recipe: Recipe, company: Company | None) -> None:
    """Refuse before any work what would fail after it."""
    stages.require(recipe, "teachers", "corpus", "student", "output")
    for option, folder in (("output", recipe.output), ("work", recipe.work or "")):
        if is_url(folder):
            raise AmalgamError(f"--{option} {folder}: a build needs a local folder; only scores may lie elsewhere")
    stages.check_student(recipe)
    stages.method_of(recipe)
    stages.backend_of(recipe)
    stages.budget_of(recipe)
    resolve_device(recipe.device)
    check_logger(recipe.report_to)
    if company is not None:
        company.check(recipe)

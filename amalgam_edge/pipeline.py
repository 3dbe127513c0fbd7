"""The one command: teachers and texts in, a bundle out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from amalgam_edge import cascading, stages
from amalgam_edge.budget import Budget
from amalgam_edge.bundling import Made, write_bundle
from amalgam_edge.corpus import Corpus
from amalgam_edge.devices import resolve_device
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.bundle_writer import check_output
from amalgam_edge.progress import Progress
from amalgam_edge.recipe import Recipe
from amalgam_edge.runtime.bundle import MANIFEST, Bundle
from amalgam_edge.staging import staged
from amalgam_edge.training import check_logger


def build(recipe: Recipe, progress: Progress, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Build a bundle.

    Args:
        recipe: what to build.
        progress: told of each step.
        overwrite: replace a bundle that stands in the output folder.
        resume: go on with a build that was cut off; where it had finished, there is nothing to do.

    Returns:
        The bundle's manifest. ``manifest["gate"]["passed"]`` tells whether int8 kept within its budget.

    Raises:
        AmalgamError: a mistake in the recipe or in what it names; nothing is left in the output folder.
    """
    _check(recipe)
    output = Path(recipe.output)
    check_output(output, overwrite=overwrite, resume=resume)
    if resume and not overwrite and (output / MANIFEST).is_file():
        manifest = _finished(output, recipe)
        progress.say(f"{output}: finished already, nothing to do")
        return manifest

    method, settings = stages.method_of(recipe)
    steps = (
        6 + method.reads_hidden + recipe.trim_vocabulary + recipe.calibrate + 2 * recipe.cascade + bool(recipe.evaluate)
    )
    progress.begin(steps + stages.n_scoring_steps(recipe))
    with progress.step("reading texts"):
        texts = stages.read_texts(recipe)
        if recipe.cascade:
            cascading.require_texts(texts)
    with progress.step("loading teachers and student"):
        teachers, labels, student = stages.load_models(recipe)
        gold = labels.encode(texts.labelled.labels) if texts.labelled else None
        tokenized = stages.tokenize(texts.corpus, student.tokenizer)
    _say_corpus(texts.corpus, tokenized.n_truncated, student.tokenizer.model_max_length, progress)
    for warning in labels.warnings:
        progress.say(f"warning: {warning}")

    stores = stages.cached_stores(recipe, teachers, texts.corpus)
    stages.score(recipe, teachers, stores, texts.corpus, progress)
    scores = [store.read() for store in stores]
    told = stages.tell(recipe, teachers, texts.corpus, scores, progress)
    supervision = method.supervise(scores, labels, settings)
    training = stages.training_settings(recipe)
    training_folder = recipe.work_folder / f"training-{recipe.fingerprint()[:12]}"
    with progress.step("training the student", training.n_updates(len(texts.train)), "updates") as advance:
        history = stages.distil(
            student,
            texts,
            tokenized,
            supervision,
            stages.objective(recipe, labels, student, told),
            training,
            training_folder,
            advance,
            told=told,
            resume=resume,
        )
    vocabulary = None
    if recipe.trim_vocabulary:
        with progress.step("trimming the vocabulary"):
            student, vocabulary = stages.trim_vocabulary(student, texts, tokenized, recipe.max_disagreement, progress)
    calibration = None
    if recipe.calibrate:
        with progress.step("calibrating"):
            calibration = stages.calibrate_student(recipe, student, texts, scores, labels)
    companion = None
    if recipe.cascade:
        n_updates = cascading.n_updates(stages.training_settings(recipe, static=True), len(texts.train))
        with progress.step("training the cascade's static student", n_updates, "updates") as advance:
            companion = cascading.train_companion(
                student,
                texts,
                labels.names,
                recipe,
                training_folder.with_name(f"{training_folder.name}-static"),
                advance,
            )
    made = Made(
        recipe,
        texts,
        teachers,
        labels,
        scores,
        supervision,
        student,
        history,
        gold,
        tokenized.n_truncated,
        vocabulary,
        calibration,
        companion,
    )
    with staged(output) as folder:
        manifest = write_bundle(made, folder, progress)
    shutil.rmtree(training_folder, ignore_errors=True)
    return manifest


def _finished(output: Path, recipe: Recipe) -> dict[str, Any]:
    manifest = Bundle.open(output).manifest
    if manifest["recipe_fingerprint"] != recipe.fingerprint():
        raise AmalgamError(f"{output}: holds a finished bundle of another recipe; --overwrite replaces it")
    return manifest


def _say_corpus(corpus: Corpus, n_truncated: int, max_length: int, progress: Progress) -> None:
    left_out = f"{corpus.n_duplicate} duplicates and {corpus.n_blank} blank texts left out"
    cut = f"; {n_truncated} longer than {max_length} tokens are cut" if n_truncated else ""
    progress.say(f"corpus: {len(corpus)} texts ({left_out}){cut}")


def _check(recipe: Recipe) -> None:
    """Refuse before any work what would fail after it."""
    stages.require(recipe, "teachers", "corpus", "student", "output")
    stages.check_student(recipe)
    stages.method_of(recipe)
    stages.backend_of(recipe)
    if recipe.budget:
        Budget.parse(recipe.budget)
    resolve_device(recipe.device)
    check_logger(recipe.report_to)

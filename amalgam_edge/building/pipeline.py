"""The one command: teachers and texts in, a bundle out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from amalgam_edge.building.build_steps import build_steps
from amalgam_edge.building.checks import parse_budget, settings_by_name
from amalgam_edge.building.data import Models, TrainingData
from amalgam_edge.building.processes import LaunchedProcesses, ProcessGroup
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import limit_threads, resolve_device
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import TrainingSettings
from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.manifest import MANIFEST
from amalgam_edge.runtime.output import check_output
from amalgam_edge.scoring.backends import Backend
from amalgam_edge.scoring.run import choose_backend
from amalgam_edge.steps import run_steps
from amalgam_edge.storage.output_lock import locked
from amalgam_edge.storage.staging import staged
from amalgam_edge.storage.syncing import folders_made
from amalgam_edge.storage.write_errors import report_write_errors
from amalgam_edge.training.fitting import check_logger


def build_bundle(
    recipe: Recipe,
    progress: Progress,
    *,
    overwrite: bool = False,
    resume: bool = False,
    processes: ProcessGroup | None = None,
) -> Bundle:
    """Build a bundle from a recipe that :func:`~amalgam_edge.building.checks.check_build` has passed.

    Args:
        recipe: What to build.
        progress: Told of each step.
        overwrite: Replace a bundle that is in the output folder.
        resume: Go on with a build that was interrupted; if it had finished, there is nothing to do.
        processes: The processes that train the student; None for as many as the recipe says.

    Returns:
        The bundle in the output folder.

    Raises:
        AmalgamError: A mistake in the recipe or in what it names; nothing is left in the output folder.
    """
    if processes is None and recipe.training.processes > 1:
        processes = LaunchedProcesses(recipe.training.processes)
    backend = _check_machine(recipe, processes)
    limit_threads()
    output = Path(recipe.output.folder)
    if resume and not overwrite and (output / MANIFEST).is_file():
        bundle = _finished(output, recipe)
        progress.say(f"{output}: finished already, nothing to do")
        return bundle
    training_folder = recipe.work_folder / f"training-{recipe.fingerprint()[:12]}"
    # The folder is claimed before any work, so that nobody waits for a build whose bundle has no place to go to.
    with staged(output, check=partial(check_output, output, overwrite=overwrite)) as folder:
        values = {
            **_first_values(recipe, backend),
            "processes": processes,
            "resume": resume,
            "folder": folder,
            "training_folder": training_folder,
        }
        with _claimed(training_folder):
            run_steps(build_steps(recipe, backend), values, progress)
    shutil.rmtree(training_folder, ignore_errors=True)
    return Bundle.open(output)


@contextmanager
def _claimed(training_folder: Path) -> Iterator[None]:
    """While entered, no build of the same recipe with another output trains in this work folder."""
    with report_write_errors(training_folder), folders_made(training_folder.parent), locked(training_folder):
        yield


def prepare_training_data(recipe: Recipe, progress: Progress) -> tuple[Models, TrainingData]:
    """Run the steps of a build up to the first training, for experiments that train in another way.

    Args:
        recipe: What to build; it has passed :func:`~amalgam_edge.building.checks.check_build`.
        progress: Told of each step.
    """
    backend = choose_backend(recipe.compute, recipe.scoring)
    steps = build_steps(recipe, backend)
    first = next(position for position, step in enumerate(steps) if step.makes == "data")
    values = run_steps(steps[: first + 1], _first_values(recipe, backend), progress)
    return values["models"], values["data"]


def _first_values(recipe: Recipe, backend: Backend) -> dict[str, Any]:
    """What the first steps need, and the steps of every build: the recipe's sections above all."""
    return {
        **settings_by_name(recipe),
        "training_settings": resolved_training(recipe),
        "recipe": recipe,
        "work_folder": recipe.work_folder,
        "backend": backend,
        "budget": parse_budget(recipe.export),
        **_UNLESS_ASKED_FOR,
    }


# Values that stay as they are where the steps that make them are not part of the build.
_UNLESS_ASKED_FOR = {"hidden": (), "features": None, "cascade": None, "evaluation": None}


def resolved_training(recipe: Recipe) -> TrainingSettings:
    """The settings of the training loop with the learning rate of the recipe's kind of student."""
    rate = recipe.training.peak_learning_rate(static=recipe.student.is_static)
    return replace(recipe.training, learning_rate=rate)


def _check_machine(recipe: Recipe, processes: ProcessGroup | None) -> Backend:
    """Refuse before any work what this machine cannot do; what runs the teachers."""
    backend = choose_backend(recipe.compute, recipe.scoring)
    resolve_device(recipe.training.device)
    check_logger(recipe.training.report_to)
    if processes is not None:
        processes.check(recipe.training)
    return backend


def _finished(output: Path, recipe: Recipe) -> Bundle:
    bundle = Bundle.open(output)
    if bundle.manifest.recipe_fingerprint != recipe.fingerprint():
        raise AmalgamError(f"{output}: holds a finished bundle of another recipe; --overwrite replaces it")
    return bundle

"""Checks of a recipe that need nothing heavy: they answer before torch or transformers are imported."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amalgam_edge.building.budget import Budget
from amalgam_edge.errors import AmalgamError
from amalgam_edge.gold import label_columns
from amalgam_edge.methods import method_named
from amalgam_edge.models.checkpoints import TEACHER_PREFIX, heads_of, looks_like_a_folder, parse_teacher
from amalgam_edge.recipe.reading import read_renames, read_thresholds
from amalgam_edge.recipe.recipe import SECTIONS, Recipe
from amalgam_edge.recipe.sections import STATIC, STATIC_PREFIX, ExportSettings, StudentSettings, TeacherSettings
from amalgam_edge.runtime.manifest import TEACHER_KIND
from amalgam_edge.runtime.output import check_output
from amalgam_edge.storage import files

if TYPE_CHECKING:
    from amalgam_edge.runtime.bundle import Bundle


def check_build(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a recipe that cannot be built, as far as that shows without loading anything.

    Args:
        recipe: What to build.
        overwrite: Whether a bundle in the output folder may be replaced.
        resume: Whether a build may be gone on with.

    Raises:
        AmalgamError: A setting is missing, contradicts another, or names something that is not there.
    """
    require(
        {
            "teacher": recipe.teachers.sources,
            "corpus": recipe.corpus.source,
            "student": recipe.student.encoder,
            "output": recipe.output.folder,
        }
    )
    for option, folder in (("output", recipe.output.folder), ("work", recipe.output.work or "")):
        if files.is_url(folder):
            raise AmalgamError(f"--{option} {folder}: a build needs a local folder; only scores may lie elsewhere")
    check_method(recipe.method.name)
    parse_budget(recipe.export)
    check_student(recipe)
    check_teachers(recipe.teachers)
    _check_encoder(recipe.student, recipe.teachers)
    _check_heads(recipe)
    read_renames(recipe.teachers.labels)
    check_source(recipe.corpus.source)
    for source in (recipe.evaluation.source, recipe.hints.known_labels):
        if source:
            check_source(source)
    check_output(Path(recipe.output.folder), overwrite=overwrite, resume=resume)


def _check_heads(recipe: Recipe) -> None:
    """Refuse heads that are not there, as far as names show.

    Raises:
        AmalgamError: Heads and teachers do not fit, or a weight, a threshold or a column of labels is of no head.
    """
    heads = [*heads_of(recipe.teachers)]
    abstain = recipe.export.abstain
    for option, named in (
        ("head-weight", recipe.training.head_weights or {}),
        ("abstain", abstain if isinstance(abstain, dict) else {}),
    ):
        unknown = next((name for name in named if name not in heads), None)
        if unknown is not None:
            raise AmalgamError(f"--{option} {unknown}=…: no head '{unknown}'; there are {', '.join(heads)}")
    read_thresholds(recipe.export.thresholds, heads)
    if recipe.evaluation.source:
        label_columns(heads, recipe.evaluation.label_column)


def check_scoring(recipe: Recipe) -> None:
    """Refuse a recipe whose corpus cannot be scored, as far as that shows without loading anything.

    Raises:
        AmalgamError: A setting is missing, or names something that is not there.
    """
    require(
        {
            "teacher": recipe.teachers.sources,
            "corpus": recipe.corpus.source,
            "output": recipe.output.folder,
        }
    )
    check_teachers(recipe.teachers)
    heads_of(recipe.teachers)
    check_source(recipe.corpus.source)


def settings_by_name(recipe: Recipe) -> dict[str, Any]:
    """The sections of a recipe under the names by which steps ask for them, such as ``scoring_settings``."""
    singular = {"teachers": "teacher", "hints": "hint"}
    return {f"{singular.get(section, section)}_settings": getattr(recipe, section) for section in SECTIONS}


def check_teacher_export(recipe: Recipe, *, overwrite: bool) -> None:
    """Refuse a teacher that cannot be exported, as far as that shows without loading anything.

    Raises:
        AmalgamError: There is no such folder, or the output folder is taken.
    """
    if not recipe.output.folder:
        raise AmalgamError("no output given: name one with --output")
    check_teachers(recipe.teachers)
    check_output(Path(recipe.output.folder), overwrite=overwrite, kind=TEACHER_KIND)


def require(given: Mapping[str, object]) -> None:
    """Refuse a recipe that leaves one of these settings empty.

    Args:
        given: Name of an option → its value.
    """
    for name, value in given.items():
        if not value:
            field = {"teacher": "teachers"}.get(name, name)
            raise AmalgamError(f"no {name} given: name one with --{name}, or under '{field}' in the recipe")


def check_method(name: str) -> None:
    """Refuse a method that does not exist.

    Raises:
        AmalgamError: There is no such method.
    """
    method_named(name)


def parse_budget(settings: ExportSettings) -> Budget | None:
    """The budget, always with a limit on the labels that may change; None where there is none.

    Raises:
        AmalgamError: The budget is not understood.
    """
    if not settings.budget:
        return None
    return Budget.parse(settings.budget).with_loss(100 * settings.max_disagreement)


def check_student(recipe: Recipe) -> None:
    """Refuse students that cannot be told apart or chosen from, and options that a static student has no use for.

    Raises:
        AmalgamError: There is one of these.
    """
    counts = recipe.student.layer_counts
    repeated = next((count for count in counts if counts.count(count) > 1), None)
    if repeated is not None:
        raise AmalgamError(f"--student-layers: {repeated} is named twice")
    if recipe.student.is_static:
        _check_static_student(recipe)
    elif len(counts) > 1 and not recipe.export.budget:
        raise AmalgamError(
            f"--student-layers {','.join(map(str, counts))}: several students need a budget to choose by; "
            "give one with --budget, or name one count"
        )


def _check_static_student(recipe: Recipe) -> None:
    name = recipe.student.encoder
    if recipe.student.layers is not None:
        raise AmalgamError(f"--student-layers: a static student has no layers; leave it out of --student {name}")
    if recipe.cascade.enabled:
        raise AmalgamError(
            f"--cascade: it puts a static student before an encoder, and --student {name} is static already; "
            "name an encoder for --student, or leave --cascade out"
        )


def check_teachers(settings: TeacherSettings) -> None:
    """Refuse teachers with one name, and folders that are not there.

    Raises:
        AmalgamError: There is one of these.
    """
    names = teacher_names(settings)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise AmalgamError(f"two teachers are called '{repeated}': name them apart with --teacher NAME=PATH")
    for spec in settings.sources:
        _check_checkpoint(parse_teacher(spec)[1])


def teacher_names(settings: TeacherSettings) -> list[str]:
    """Names of the teachers, given or made from their folders.

    Raises:
        AmalgamError: A teacher has no name.
    """
    return [parse_teacher(spec)[0] for spec in settings.sources]


def check_source(source: str) -> None:
    """Refuse a local file or folder of texts that is not there; URLs and the Hub are asked later.

    Raises:
        AmalgamError: There is no such file or folder, or no such file system.
    """
    if files.is_url(source):
        files.check_url(source)
    elif not glob.has_magic(source) and not Path(files.locate(source)).exists():
        raise files.no_such_source(source)


def check_calibration(bundle: Bundle, calibration: str | Path | None) -> str:
    """The location of texts to measure models on, as the user named it.

    The bundle states where its corpus lay, but whoever made the bundle chose that place: it is shown, not opened.

    Raises:
        AmalgamError: The user named none, or there is no such file or folder.
    """
    if calibration is None:
        stated = bundle.manifest.recipe.get("corpus")
        of_bundle = (
            f"; it says that it was built from {stated!r}, which is not opened unless you name it" if stated else ""
        )
        raise AmalgamError(f"{bundle.source}: no texts to measure on, name some with --calibration{of_bundle}")
    check_source(str(calibration))
    return str(calibration)


def _check_encoder(settings: StudentSettings, teachers: TeacherSettings) -> None:
    name = settings.encoder
    if settings.is_static:
        name = "" if name == STATIC else name.removeprefix(STATIC_PREFIX)
    if name.startswith(TEACHER_PREFIX):
        known = teacher_names(teachers)
        if name.removeprefix(TEACHER_PREFIX) not in known:
            wanted = name.removeprefix(TEACHER_PREFIX)
            raise AmalgamError(f"--student {name}: no teacher '{wanted}'; there are {', '.join(known)}")
    elif name:
        _check_checkpoint(name)


def _check_checkpoint(name: str) -> None:
    if not Path(name).exists() and looks_like_a_folder(name):
        raise AmalgamError(f"{name}: no such folder")

"""The library's functions, which the command line calls too.

Arguments are checked before anything heavy is imported, so a mistake answers at once. Progress is shown as it suits the
place: bars in a terminal or a notebook, lines in a log; ``progress=False`` is silent. A mistake raises
:class:`~amalgam_edge.errors.AmalgamError` with one line that says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from amalgam_edge.console_progress import ProgressChoice, resolve_progress
from amalgam_edge.errors import AmalgamError, needs_extra
from amalgam_edge.recipe.reading import read_recipe
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.storage.write_errors import TEMPORARY_FILES, report_write_errors

if TYPE_CHECKING:
    from amalgam_edge.building.head_checks import Action
    from amalgam_edge.evaluation.bundle_evaluation import LabelColumns
    from amalgam_edge.recipe.fields import RecipeFields
    from amalgam_edge.runtime.bundle import Bundle
    from amalgam_edge.runtime.evaluation import Evaluation
    from amalgam_edge.runtime.hub import HubOptions
    from amalgam_edge.runtime.manifest import TeacherManifest
    from amalgam_edge.runtime.predictions import Abstain
    from amalgam_edge.scoring.scores import ScoreSummary


@report_write_errors(TEMPORARY_FILES)
def build(
    *,
    recipe: Recipe | str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: ProgressChoice = None,
    **settings: Unpack[RecipeFields],
) -> Bundle:
    """Merge teachers into one quantized student, without labels.

    >>> bundle = build(  # doctest: +SKIP
    ...     teachers=["runs/teacher-a", "runs/teacher-b"],
    ...     corpus="unlabeled.jsonl",
    ...     student="sentence-transformers/all-MiniLM-L6-v2",
    ...     output="student/",
    ... )

    Args:
        recipe: A recipe, or the path of its YAML file; None starts from the defaults.
        overwrite: Replace a bundle that is in the output folder.
        resume: Go on with a build that was interrupted.
        progress: None shows progress as it suits the place, False shows nothing.
        settings: Settings that replace those of the recipe, see :class:`~amalgam_edge.recipe.fields.RecipeFields`.

    Returns:
        The bundle in the output folder; its manifest says what was measured.

    Raises:
        AmalgamError: A mistake in the settings or in what they name; nothing is left in the output folder.
    """
    from amalgam_edge.building.checks import check_build

    resolved = _resolve(recipe, settings)
    check_build(resolved, overwrite=overwrite, resume=resume)
    with needs_extra("train", "building a student"):
        from amalgam_edge.building.pipeline import build_bundle

        shown = resolve_progress(progress)
    return build_bundle(resolved, shown, overwrite=overwrite, resume=resume)


@report_write_errors(TEMPORARY_FILES)
def score(
    *,
    recipe: Recipe | str | Path | None = None,
    resume: bool = False,
    progress: ProgressChoice = None,
    **settings: Unpack[RecipeFields],
) -> list[ScoreSummary]:
    """Score texts with teachers under Monte-Carlo dropout, and write the scores to the output folder.

    Args:
        recipe: A recipe, or the path of its YAML file; what it says of students is not used.
        resume: Go on with a run that was interrupted.
        progress: None shows progress as it suits the place, False shows nothing.
        settings: Settings that replace those of the recipe.

    Returns:
        A summary of each teacher's scores.

    Raises:
        AmalgamError: A mistake in the settings or in what they name; nothing that was scored is lost.
    """
    from amalgam_edge.building.checks import check_scoring

    resolved = _resolve(recipe, settings)
    check_scoring(resolved)
    with needs_extra("train", "scoring"):
        from amalgam_edge.building.scoring import score_texts

        shown = resolve_progress(progress)
    return score_texts(resolved, shown, resume=resume)


@report_write_errors(TEMPORARY_FILES)
def evaluate(
    bundle: Bundle | str | Path,
    data: str | Path,
    *,
    text_column: str | None = None,
    label_column: LabelColumns = (),
    split: str = "test",
    precisions: Sequence[str] = (),
    threads: int | None = None,
    abstain: Abstain | None = None,
    teachers: Sequence[str] = (),
    compare: Bundle | str | Path | None = None,
    **hub: Unpack[HubOptions],
) -> Evaluation:
    """Measure a bundle on labelled texts, and beside its teachers.

    Args:
        bundle: A bundle, its folder, or its name on the Hub.
        data: Labelled texts in any form that a corpus may have. With teachers, the texts need no labels.
        text_column: Column that holds the text; ``text``, or the only column of strings, where it is None.
        label_column: Column that holds the true label; of several heads {head: column}, or a list of ``HEAD=COLUMN``.
            By default ``label``, and for several heads the column that is called as the head.
        split: Split to read of a data set from the Hub.
        precisions: Precisions to measure; all whose model is there where none is named.
        threads: CPU threads to compute with, at most one per usable core; that many where it is None.
        abstain: Give no label below this score, or {head: score}; the bundle's own thresholds where it is None.
        teachers: ``NAME=PATH`` of teachers, by the names that the bundle has for them, to answer the same texts.
        compare: Another bundle to measure on the same texts.
        hub: How bundles of the Hub are fetched: ``revision`` (of ``bundle`` alone), ``token``, ``cache_dir``,
            ``local_files_only``.

    Returns:
        For each head, what was measured of each precision, and how it agrees with the teachers that were named.

    Raises:
        AmalgamError: The data cannot be read or has labels that the bundle does not know; a teacher is none of the
            bundle's; a bundle is damaged.
    """
    from amalgam_edge.building.checks import check_source

    opened = _open(bundle, **hub)
    of_other: HubOptions = {**hub, "revision": None}
    other = None if compare is None else _open(compare, **of_other)
    check_source(str(data))
    with needs_extra("train", "reading labelled texts"):
        from amalgam_edge.evaluation.bundle_evaluation import evaluate_bundle
    return evaluate_bundle(
        opened,
        str(data),
        text_column=text_column,
        label_column=label_column,
        split=split,
        precisions=precisions,
        threads=threads,
        abstain=abstain,
        teachers=teachers,
        compare=other,
    )


@report_write_errors(TEMPORARY_FILES)
def optimize(
    bundle: Bundle | str | Path,
    budget: str,
    *,
    output: str | Path | None = None,
    calibration: str | Path | None = None,
    text_column: str | None = None,
    progress: ProgressChoice = None,
    **hub: Unpack[HubOptions],
) -> Bundle:
    """Make a bundle's models anew, measure them on this machine, and let a budget choose the one that runs.

    Args:
        bundle: A bundle, its folder, or its name on the Hub.
        budget: Limits, such as ``"size<=20MB, latency<=2ms, loss<=1%, memory<=150MB"``.
        output: Folder of the new bundle; the old one is replaced where it is None. A bundle of the Hub needs one.
        calibration: Texts to measure on, such as the corpus that the bundle was built from. They must be named: a place
            that a bundle states is not opened.
        text_column: Column of ``calibration`` that holds the text.
        progress: None shows progress as it suits the place, False shows nothing.
        hub: How a bundle of the Hub is fetched: ``revision``, ``token``, ``cache_dir``, ``local_files_only``.

    Returns:
        The new bundle; its manifest says what was measured and why the choice was made.

    Raises:
        AmalgamError: The budget is not understood, the bundle has no float model, there are no texts, or a bundle of
            the Hub would have to be replaced.
    """
    from amalgam_edge.building.budget import Budget
    from amalgam_edge.building.checks import check_calibration

    Budget.parse(budget)
    opened = _open(bundle, **hub)
    if opened.hub and not output:
        raise AmalgamError(
            f"{opened.source}: a bundle of the Hub is not replaced; name a folder for the new one (--output)"
        )
    texts = check_calibration(opened, calibration)
    with needs_extra("train", "making models"):
        from amalgam_edge.building.optimizing import optimize_bundle

        shown = resolve_progress(progress)
    return optimize_bundle(
        opened,
        budget,
        Path(output or opened.folder),
        shown,
        calibration=texts,
        text_column=text_column,
    )


@report_write_errors(TEMPORARY_FILES)
def add_head(
    bundle: Bundle | str | Path,
    *,
    head: str | None = None,
    progress: ProgressChoice = None,
    hub: HubOptions | None = None,
    **settings: Unpack[RecipeFields],
) -> Bundle:
    """Add a head to a finished bundle, whose encoder and other heads stay as they are, to the bit.

    The new head is a linear layer on the encoder's hidden states; teachers teach it as in a build.

    Args:
        bundle: A bundle, its folder, or its name on the Hub.
        head: Name of the new head; that of its teacher where there is one.
        progress: None shows progress as it suits the place, False shows nothing.
        hub: How a bundle of the Hub is fetched.
        settings: Settings of a recipe: ``teachers`` and ``corpus``, and those of scoring and of the method. ``output``
            is the folder of the new bundle; without it the old one is replaced.

    Returns:
        The new bundle; its manifest says what was compared.

    Raises:
        AmalgamError: A mistake in the settings or in what they name, the head is there already, the bundle has no float
            model or is damaged, or another head would answer otherwise; the bundle stays as it was.
    """
    return _change_head(bundle, "add", head, settings, progress, hub)


@report_write_errors(TEMPORARY_FILES)
def replace_head(
    bundle: Bundle | str | Path,
    head: str,
    *,
    progress: ProgressChoice = None,
    hub: HubOptions | None = None,
    **settings: Unpack[RecipeFields],
) -> Bundle:
    """Replace a head of a finished bundle by a new one of the same name, and leave all others as they are.

    Args:
        bundle: A bundle, its folder, or its name on the Hub.
        head: Name of the head.
        progress: None shows progress as it suits the place, False shows nothing.
        hub: How a bundle of the Hub is fetched.
        settings: As for :func:`add_head`.

    Returns:
        The new bundle.

    Raises:
        AmalgamError: As for :func:`add_head`; or there is no such head.
    """
    return _change_head(bundle, "replace", head, settings, progress, hub)


@report_write_errors(TEMPORARY_FILES)
def drop_head(
    bundle: Bundle | str | Path,
    head: str,
    *,
    progress: ProgressChoice = None,
    hub: HubOptions | None = None,
    **settings: Unpack[RecipeFields],
) -> Bundle:
    """Drop a head of a finished bundle, and leave all others as they are.

    Args:
        bundle: A bundle, its folder, or its name on the Hub.
        head: Name of the head.
        progress: None shows progress as it suits the place, False shows nothing.
        hub: How a bundle of the Hub is fetched.
        settings: ``output``, the folder of the new bundle, without which the old one is replaced; and ``corpus``, texts
            to measure the models on, without which a cascade is left out.

    Returns:
        The new bundle.

    Raises:
        AmalgamError: There is no such head or no other one, the bundle is damaged, or another head would answer
            otherwise; the bundle stays as it was.
    """
    return _change_head(bundle, "drop", head, settings, progress, hub)


def _change_head(
    bundle: Bundle | str | Path,
    action: Action,
    head: str | None,
    settings: Mapping[str, Any],
    progress: ProgressChoice,
    hub: HubOptions | None,
) -> Bundle:
    from amalgam_edge.building.head_checks import request_head

    opened = _open(bundle, **(hub or {}))
    request = request_head(opened, action, head, settings)
    with needs_extra("train", "changing heads"):
        from amalgam_edge.building.changing_heads import change_head

        shown = resolve_progress(progress)
    return change_head(opened, request, shown)


@report_write_errors(TEMPORARY_FILES)
def export_teacher(
    teacher: str | Path, *, overwrite: bool = False, **settings: Unpack[RecipeFields]
) -> TeacherManifest:
    """Write a teacher as one ONNX file whose dropout stays alive in any runtime.

    Args:
        teacher: A folder, a Hub name, or ``NAME=PATH``.
        overwrite: Replace an export that is in the output folder.
        settings: Settings of a recipe; ``output`` must be one of them.

    Returns:
        The manifest of the export.

    Raises:
        AmalgamError: There is no such teacher, it has no dropout, it cannot be exported, or the folder is taken.
    """
    from amalgam_edge.building.checks import check_teacher_export

    resolved = _resolve(None, {**settings, "teachers": [str(teacher)]})
    check_teacher_export(resolved, overwrite=overwrite)
    with needs_extra("train", "exporting a teacher"):
        from amalgam_edge.building.teacher_folder import write_teacher
    return write_teacher(resolved, overwrite=overwrite)


def _resolve(recipe: Recipe | str | Path | None, settings: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe.replace(**settings) if settings else recipe
    return read_recipe(recipe, settings)


def _open(bundle: Bundle | str | Path, **hub: Unpack[HubOptions]) -> Bundle:
    from amalgam_edge.runtime.bundle import Bundle
    from amalgam_edge.runtime.finding import find_bundle

    if not isinstance(bundle, Bundle):
        return find_bundle(bundle, **hub)
    if hub.get("revision"):
        raise AmalgamError(f"{bundle.source}: opened already; leave the revision out, or name the bundle")
    return bundle

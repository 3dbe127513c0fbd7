"""Making the models of a finished bundle anew, and choosing among them by a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from amalgam_edge.building.budget import Budget
from amalgam_edge.building.candidates import (
    CALIBRATION_TEXTS,
    CandidateFolder,
    ShippedModels,
    choose_models,
    measure_models,
)
from amalgam_edge.building.cascading import renew_cascade
from amalgam_edge.building.head_checks import held_out_texts
from amalgam_edge.corpus import read_corpus, read_label_names
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.static_export import int8_ladder
from amalgam_edge.gold import LABEL_COLUMN
from amalgam_edge.progress import Progress, Say
from amalgam_edge.reports.build_report import render_front
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, MODEL_FILES, REPORT, Bundle
from amalgam_edge.runtime.manifest import Manifest, write_manifest
from amalgam_edge.runtime.manifest_models import BuildEvaluation, Cascade, with_models
from amalgam_edge.runtime.output import check_output
from amalgam_edge.runtime.publishing import copy_files
from amalgam_edge.steps import Step, run_steps
from amalgam_edge.storage.staging import staged

_LABELS_SHOWN = 3  # in a warning


@dataclass(frozen=True)
class OptimizationTexts:
    """Texts for measuring and for calibrating.

    Attributes:
        held_out: Texts to measure models on; of the bundle's own corpus, those that no student was trained on.
        calibration: Texts on which activations are observed.
    """

    held_out: Sequence[str]
    calibration: Sequence[str]


def optimize_bundle(
    bundle: Bundle,
    budget: str,
    output: Path,
    progress: Progress,
    *,
    calibration: str,
    text_column: str | None = None,
) -> Bundle:
    """Make every precision of a bundle's float model anew, measure them, and let the budget choose the default.

    Args:
        bundle: A bundle that holds its float model.
        budget: Limits, see :class:`~amalgam_edge.building.budget.Budget`.
        output: Folder of the new bundle; may be that of the old one.
        progress: Told of each step.
        calibration: Texts like those that the bundle will meet, such as the corpus that it was built from.
        text_column: Column of ``calibration`` that holds the text.

    Returns:
        The new bundle.

    Raises:
        AmalgamError: The budget is not understood, the bundle has no float model, or there are no texts.
    """
    limits = Budget.parse(budget).with_loss(100 * bundle.manifest.gate.max_disagreement)
    is_elsewhere = output.resolve() != bundle.folder.resolve()
    check = partial(check_output, output, overwrite=not is_elsewhere)
    check()
    if "fp32" not in bundle.precisions or not bundle.has(bundle.model_name("fp32")):
        there = ", ".join(name for name in bundle.available_precisions() if name != "fp32") or "none"
        raise AmalgamError(f"{bundle.source}: holds no float model to start from (models: {there}); build it again")
    files = _files_to_copy(bundle)
    has_cascade = bundle.cascade is not None and bundle.cascade.file in files
    missing = [bundle.cascade.file] if bundle.cascade and not has_cascade else []
    steps = [
        Step(_read_texts, makes="texts", title="reading texts"),
        Step(_copy_bundle),
        Step(_candidate_folder, makes="candidates"),
        Step(_measure_and_choose, makes="models", title="quantizing and measuring"),
        Step(_report_missing),
        *([Step(_renew_cascade, makes="cascade", title="setting the cascade's threshold")] if has_cascade else []),
        Step(_write_bundle, title="writing the bundle"),
    ]
    with staged(output, check=check) as folder:
        for name in files:
            bundle.check(name)  # now that nobody else can replace it
        values = {
            "bundle": bundle,
            "limits": limits,
            "output": output,
            "folder": folder,
            "calibration": calibration,
            "text_column": text_column,
            "files": files,
            "missing": missing,
            "cascade": None,
        }
        run_steps(steps, values, progress)
    return Bundle.open(output)


def _files_to_copy(bundle: Bundle) -> list[str]:
    """The files that the new bundle starts with: all that are there but the smaller models, which are made anew."""
    made_anew = {model.file for name, model in bundle.manifest.precisions.items() if name != "fp32"}
    files = [name for name in bundle.manifest.files if name not in made_anew]
    return [name for name in files if not bundle.may_lack(name) or bundle.has(name)]


def _read_texts(bundle: Bundle, calibration: str, text_column: str | None, say: Say) -> OptimizationTexts:
    corpus = read_corpus(calibration, text_column=text_column)
    if len(corpus) < 2:
        raise AmalgamError(f"{calibration}: one text is too few; at least two are needed, and hundreds are wise")
    train, held_out = corpus.split(held_out_texts(bundle))
    _warn_of_labels(bundle, calibration, say)
    return OptimizationTexts(corpus.take(held_out), corpus.take(train[:CALIBRATION_TEXTS]))


def _warn_of_labels(bundle: Bundle, source: str, say: Say) -> None:
    """Say if texts come with labels that the bundle does not have: they may be texts of another kind."""
    if not bundle.heads.is_one_softmax:
        return
    stated = bundle.manifest.recipe.get("label_column", LABEL_COLUMN)
    column = str(stated[0] if isinstance(stated, list) and stated else stated).rpartition("=")[2]
    unknown = [name for name in read_label_names(source, column) if name not in bundle.labels]
    if unknown:
        names = ", ".join(f"'{name}'" for name in unknown[:_LABELS_SHOWN])
        more = f" and {len(unknown) - _LABELS_SHOWN} more" if len(unknown) > _LABELS_SHOWN else ""
        say(f"warning: {source}: labels that the bundle does not have: {names}{more}; only texts are used")


def _copy_bundle(bundle: Bundle, files: Sequence[str], folder: Path) -> None:
    """A copy of the bundle without its smaller models; it takes the place of the output folder in the end."""
    copy_files(bundle, folder, files)


def _candidate_folder(
    bundle: Bundle, texts: OptimizationTexts, limits: Budget, folder: Path, say: Say
) -> CandidateFolder:
    manifest = bundle.manifest
    return CandidateFolder(
        folder,
        heads=bundle.heads,
        max_length=manifest.max_length,
        pad_token_id=manifest.pad_token_id,
        texts=texts.held_out,
        calibration=texts.calibration,
        max_disagreement=limits.max_disagreement,
        ladder=int8_ladder(folder / MODEL_FILES["fp32"], bundle.is_static),
        layers=manifest.student.layers,
        n_tokens=manifest.student.n_tokens,
        agreement=manifest.student.agreement,
        say=say,
    )


def _measure_and_choose(candidates: CandidateFolder, limits: Budget) -> ShippedModels:
    return choose_models(measure_models([candidates], every_precision=True), limits)[1]


def _report_missing(bundle: Bundle, missing: Sequence[str], say: Say) -> None:
    for name in missing:
        say(f"no cascade any more: {bundle.folder / name} is not there")


def _renew_cascade(
    bundle: Bundle, candidates: CandidateFolder, models: ShippedModels, texts: OptimizationTexts, folder: Path, say: Say
) -> Cascade:
    cascade = bundle.manifest.cascade
    assert cascade is not None  # noqa: S101  (the step is there for bundles with a cascade)
    encoder = candidates.open(candidates.file(models.default_precision))
    return renew_cascade(cascade, folder, encoder, bundle.heads, texts.held_out, texts.calibration, say)


def _write_bundle(
    bundle: Bundle, models: ShippedModels, cascade: Cascade | None, output: Path, folder: Path
) -> Manifest:
    evaluation = _still_valid(bundle.manifest.evaluation)
    manifest = replace(bundle.manifest, **vars(models), cascade=cascade, evaluation=evaluation)
    (folder / CARD).write_text(render_model_card(manifest, output.name), "utf-8")
    (folder / REPORT).write_text(render_front(manifest), "utf-8")
    return write_manifest(folder, manifest)


def _still_valid(evaluation: BuildEvaluation | None) -> BuildEvaluation | None:
    """What was measured of the models that are still the same: the float one and the teachers."""
    if evaluation is None:
        return None
    return with_models(evaluation, lambda name: name == "fp32")

"""A finished bundle's models made and chosen anew."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amalgam_edge.building.budget import Budget
from amalgam_edge.building.candidates import CALIBRATION_TEXTS, Workshop, choose_models, try_models
from amalgam_edge.building.cascading import renew_cascade
from amalgam_edge.corpus.reading import LABEL, Corpus, read_corpus, read_label_names
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.selection.bundle_writer import check_output, write_manifest
from amalgam_edge.exporters.static_export import int8_ladder
from amalgam_edge.progress import Progress
from amalgam_edge.reports.build_report import render_front
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, MANIFEST, MODEL_FILES, REPORT, Bundle
from amalgam_edge.storage.staging import staged

_FOREIGN_LABELS = 3  # that a warning names


def optimize_bundle(
    bundle: Bundle,
    budget: str,
    output: Path,
    progress: Progress,
    *,
    calibration: str | None = None,
    text_column: str | None = None,
) -> dict[str, Any]:
    """Make every precision of a bundle's float model anew, measure them, and let the budget pick the default.

    Args:
        bundle: with its float model.
        budget: see :class:`~amalgam_edge.building.budget.Budget`.
        output: folder of the new bundle; may be the old one.
        progress: told of each step.
        calibration: texts like those that the bundle will meet; by default the corpus that it was built from.
        text_column: of the calibration texts.

    Returns:
        The new manifest.

    Raises:
        AmalgamError: the budget is not understood, the bundle has no float model, or there are no texts.
    """
    wishes = Budget.parse(budget).with_loss(100 * float(bundle.manifest["gate"]["max_disagreement"]))
    if output.resolve() != bundle.folder.resolve():
        check_output(output, overwrite=False)
    if "fp32" not in bundle.precisions:
        raise AmalgamError(f"{bundle.folder}: holds no float model to start from; build it again")
    lost = _lost_static_model(bundle)
    bundle.verify(without=lost)
    cascade = None if lost else bundle.cascade
    progress.begin(3 + (cascade is not None))
    with progress.step("reading texts"):
        held_out, other = _texts(bundle, calibration, text_column)
        if calibration is not None:
            _warn_of_labels(bundle, calibration, progress)
    manifest = dict(bundle.manifest)
    student = manifest.get("student") or {}  # bundles of earlier versions do not say
    with staged(output) as folder:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
        for precision in bundle.precisions:
            if precision != "fp32":
                (folder / bundle.manifest["precisions"][precision]["file"]).unlink()
        with progress.step("quantizing and measuring"):
            shop = Workshop(
                folder,
                max_length=int(manifest["max_length"]),
                pad_token_id=int(manifest["pad_token_id"]),
                texts=held_out,
                calibration=other,
                max_disagreement=wishes.limits["loss"] / 100,
                ladder=int8_ladder(folder / MODEL_FILES["fp32"], bundle.is_static),
                layers=student.get("layers"),
                n_tokens=student.get("n_tokens"),
                agreement=student.get("agreement"),
                say=progress.say,
            )
            manifest |= choose_models(try_models([shop], every_precision=True), wishes)[1]
        manifest["cascade"] = None
        for name in lost:
            progress.say(f"no cascade any more: {bundle.folder / name} is not there")
        if cascade is not None:
            with progress.step("setting the cascade's threshold"):
                encoder = shop.open(shop.file(manifest["default_precision"]))
                manifest["cascade"] = renew_cascade(cascade, folder, encoder, held_out, other, progress.say)
        with progress.step("writing the bundle"):
            manifest["evaluation"] = _still_true(manifest["evaluation"])
            (folder / CARD).write_text(render_model_card(manifest, output.name), "utf-8")
            (folder / REPORT).write_text(render_front(manifest), "utf-8")
            (folder / MANIFEST).unlink()
            write_manifest(folder, manifest)
    return manifest


def _lost_static_model(bundle: Bundle) -> list[str]:
    """The file of the bundle's cascade, if somebody took it away; a bundle can do without."""
    files = [str(bundle.cascade["file"])] if bundle.cascade else []
    return [name for name in files if not (bundle.folder / name).is_file()]


def _texts(bundle: Bundle, calibration: str | None, text_column: str | None) -> tuple[Sequence[str], Sequence[str]]:
    """Texts to measure on, and texts to calibrate with: those that the bundle was trained on, if they are its own."""
    corpus = _own_corpus(bundle) if calibration is None else read_corpus(calibration, text_column=text_column)
    if len(corpus) < 2:
        raise AmalgamError(f"{calibration}: one text is too few; at least two are needed, and hundreds are wise")
    train, held_out = corpus.split(int(bundle.manifest["recipe"]["held_out"]))
    return corpus.take(held_out), corpus.take(train[:CALIBRATION_TEXTS])


def _warn_of_labels(bundle: Bundle, source: str, progress: Progress) -> None:
    """Say if texts come with labels that the bundle does not have: they may be texts of another kind."""
    column = str(bundle.manifest["recipe"].get("label_column", LABEL))
    foreign = [name for name in read_label_names(source, column) if name not in bundle.labels]
    if foreign:
        named = ", ".join(f"'{name}'" for name in foreign[:_FOREIGN_LABELS])
        more = f" and {len(foreign) - _FOREIGN_LABELS} more" if len(foreign) > _FOREIGN_LABELS else ""
        progress.say(f"warning: {source}: labels that the bundle does not have: {named}{more}; only texts are used")


def _own_corpus(bundle: Bundle) -> Corpus:
    recipe = bundle.manifest["recipe"]
    remedy = "name texts with --calibration"
    try:
        corpus = read_corpus(recipe["corpus"], text_column=recipe["text_column"], split=recipe["split"])
    except AmalgamError as error:
        raise AmalgamError(
            f"{bundle.folder}: the corpus that it was built from is not here ({error}); {remedy}"
        ) from error
    if corpus.fingerprint != bundle.manifest["corpus"]["fingerprint"]:
        raise AmalgamError(f"{recipe['corpus']}: not the corpus that the bundle was built from any more; {remedy}")
    return corpus


def _still_true(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What was measured of the models that are still the same: the float one and the teachers."""
    if not evaluation:
        return evaluation
    student = {name: row for name, row in evaluation["student"].items() if name == "fp32"}
    return {**evaluation, "student": student}
